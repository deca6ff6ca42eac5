#pragma once
#include <peft/core/error.hpp>
#include <peft/core/value.hpp>

#include <array>
#include <string_view>
#include <tuple>

PEFT_BEGIN

/// A tensor of a method and its key in a Hugging Face file, after "base_model.model.<module>.".
struct TensorKey {
    std::string_view tensor;   ///< the name each_tensor gives
    std::string_view key;
    bool of_model = false;     ///< the key is the whole name: one tensor for all modules
};

/// Whether a configuration field may differ from module to module, and how files say so.
enum class Scope {
    model,     ///< one value for all modules
    rank,      ///< rank_pattern overrides it
    alpha,     ///< alpha_pattern overrides it
    extent,    ///< one value for all modules, an extent of their tensors: refused when no tensor of the file is that large
    members,   ///< the field is a list of modules; the option is true for those it matches
};

/// A configuration field and the option it stands for; read in both directions.
template <class Options, class Member> struct ConfigField {
    std::string_view key;
    Member Options::*option;
    Scope scope = Scope::model;
};
template <class Options, class Member> ConfigField(std::string_view, Member Options::*) -> ConfigField<Options, Member>;
template <class Options, class Member> ConfigField(std::string_view, Member Options::*, Scope) -> ConfigField<Options, Member>;

/// A configuration field that is no option as it stands: text, or made of several options. `read` is called when the key is
/// there, and throws FormatError for what it does not know.
template <class Options> struct ComputedField {
    std::string_view key;
    Value (*write)(const Options&);
    void (*read)(const Value&, Options&);
};
template <class Options> ComputedField(std::string_view, Value (*)(const Options&), void (*)(const Value&, Options&)) -> ComputedField<Options>;

/// A configuration field that must have this value; written always, verified on reading.
struct FixedField {
    std::string_view key;
    bool value;
};

/// Which weights the caller puts under an adapter whose start was taken out of the base (PiSSA, OLoRA, CorDA, ...).
enum class BaseKind {
    unstated,
    original,   ///< the published weights: the start is computed again from them
    residual,   ///< what was left when the start had been taken out: plain LoRA arithmetic
};

/// A configuration as a method's claims() sees it.
class ConfigView {
public:
    explicit ConfigView(const Value& config, BaseKind base = BaseKind::unstated) noexcept : config_(&config), base_(base) {}
    const Value& value() const noexcept { return *config_; }
    BaseKind base() const noexcept { return base_; }
    /// The text under a key, empty if there is none.
    std::string_view text(std::string_view key) const {
        const Value* found = config_->find(key);
        return found != nullptr && found->is_string() ? std::string_view(found->as_string()) : std::string_view();
    }
    /// True if the key is there and holds true.
    bool flag(std::string_view key) const {
        const Value* found = config_->find(key);
        return found != nullptr && found->is_bool() && found->as_bool();
    }
    /// Throws UnsupportedError unless the key, which stands for a feature the method does not have, is absent, null, false or empty.
    void expect_neutral(std::string_view key) const {
        const Value* found = config_->find(key);
        if (found == nullptr || found->is_null() || (found->is_bool() && !found->as_bool())) return;
        if ((found->is_array() && found->as_array().empty()) || (found->is_object() && found->as_object().empty())) return;
        throw UnsupportedError("this feature is not supported", {.subject = std::string(key), .expected = "null, false or empty"});
    }
    /// Throws FormatError unless the key is absent, null, true or false.
    void expect_flag(std::string_view key) const {
        const Value* found = config_->find(key);
        if (found != nullptr && !found->is_null() && !found->is_bool()) refuse(key, "true or false", *found);
    }
    /// Throws FormatError unless the key is absent, null or a number that `fits`.
    template <class Predicate> void expect_number(std::string_view key, Predicate fits, std::string_view expected) const {
        const Value* found = config_->find(key);
        if (found == nullptr || found->is_null()) return;
        if (!found->is_number() || !fits(found->as_number())) refuse(key, expected, *found);
    }

private:
    [[noreturn]] static void refuse(std::string_view key, std::string_view expected, const Value& found) {
        throw FormatError("wrong value", {.subject = std::string(key), .expected = std::string(expected), .found = found.describe()});
    }

    const Value* config_;
    BaseKind base_;
};

/// What Hugging Face calls things. Specialise it beside the method:
///   static constexpr std::string_view peft_type;     upper case; methods that upstream lacks begin with "X_"
///   static constexpr std::array keys{TensorKey{...}, ...};
///   static constexpr std::tuple fields{ConfigField{...}, ComputedField{...}, FixedField{...}, ...};
///   static bool claims(const ConfigView&);           optional: which configurations of this peft_type are this method
///   static void verify(const ConfigView&);           optional: throws FormatError or UnsupportedError on what the table cannot say
///   static void adjust(Options&, has);               optional: options that the keys of the file decide, has(key)
///   static constexpr std::string_view length_of;     optional: name of a tensor whose length only the file knows; given to method.resize(length)
///   static void expect(LayerShape, const Options&, context);  optional: tensors far larger than the layer, looked at before the method takes
///                                                    memory for them; context.expect_tensor(key, shape)
///   static void check(const Method&, context);       optional: whether the tensors that were read fit together; context.refuse_tensor(key, ...)
///   static auto shared(const Options&, context);     optional: what all modules share, made once; given to method.share(...)
template <class Method> struct hf_format;

PEFT_END
