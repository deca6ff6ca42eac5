#pragma once
#include <peft/adapters/all.hpp>
#include <peft/core/hf_format.hpp>
#include <peft/io/pattern.hpp>
#include <peft/io/safetensors.hpp>
#include <peft/io/targets.hpp>
#include <peft/layers/any_adapter.hpp>

#include <algorithm>
#include <optional>
#include <string>
#include <string_view>
#include <tuple>
#include <vector>

PEFT_BEGIN
namespace io {
inline namespace PEFT_ISA_NAME {

/// What the caller tells of the model that an adapter is for.
struct LoadOptions {
    BaseKind base = BaseKind::unstated;   ///< needed by adapters whose start was taken out of the base
    LayerShape largest{};                 ///< largest in and largest out of all targets: needed where a file leaves shared projections out
};

/// What a method is made from: the configuration, and the tensors of one module.
template <Scalar T> class LoadContext {
public:
    LoadContext(const Value& config, const LoadOptions& options, const TargetRules& rules, const SafetensorsFile& file, std::string config_path, std::string_view module)
        : config_(config), options_(options), rules_(rules), file_(file), config_path_(std::move(config_path)), module_(module) {}

    const Value& config() const noexcept { return config_; }
    const LoadOptions& options() const noexcept { return options_; }
    const TargetRules& rules() const noexcept { return rules_; }
    const std::string& config_path() const noexcept { return config_path_; }
    const std::string& module() const noexcept { return module_; }
    /// What to say of a missing tensor when nothing of the module is there: which key of the configuration asks for it.
    void set_reason(std::string why) { why_ = std::move(why); }
    /// Names of the file's tensors that were read.
    const std::vector<std::string>& consumed() const noexcept { return consumed_; }

    /// The tensor "<module>.<key>", with the prefix "base_model.model." or without it; nullptr if the file lacks it.
    const TensorInfo* find(std::string_view key) const {
        const std::string name = module_ + "." + std::string(key);
        const TensorInfo* prefixed = file_.find("base_model.model." + name);
        const TensorInfo* bare = file_.find(name);
        if (prefixed != nullptr && bare != nullptr) {
            throw FormatError("two tensors of the file are the same parameter", {.file = file_.path(), .subject = prefixed->name, .found = bare->name});
        }
        return prefixed != nullptr ? prefixed : bare;
    }
    /// Throws FormatError for a rank (or another extent) that no tensor of the file can have, before memory is taken for it. Small ranks pass:
    /// they cost little, and the tensor that does not fit gives the better message.
    void expect_rank(std::string_view key, std::size_t rank) const {
        constexpr std::size_t small = 4096;
        if (rank <= small) return;
        std::size_t largest = small;
        for (const TensorInfo& info : file_.tensors()) {
            if (std::find(info.shape.begin(), info.shape.end(), std::size_t{0}) != info.shape.end()) continue;   // says any extent and has no bytes
            for (const std::size_t extent : info.shape) largest = std::max(largest, extent);
        }
        largest = std::min(largest, rank_limit);
        if (rank <= largest) return;
        throw FormatError("no tensor of the file is that large", {.file = config_path_, .subject = std::string(key), .expected = "at most " + std::to_string(largest),
                          .found = std::to_string(rank)});
    }
    /// The tensor, of this shape. Throws FormatError when it is missing or of another shape.
    const TensorInfo* expect_tensor(std::string_view key, TensorShape shape) const {
        const TensorInfo* info = find(key);
        if (info == nullptr) refuse_missing(key, detail::shape_text(shape));
        if (info->shape.size() != shape.rank || !std::equal(info->shape.begin(), info->shape.end(), shape.extent.begin())) {
            throw FormatError("a tensor has the wrong shape", {.file = file_.path(), .subject = info->name, .expected = detail::shape_text(shape), .found = detail::dims_text(info->shape)});
        }
        return info;
    }
    /// Reads a tensor into a parameter. Throws FormatError when it is missing, of another shape, or not of floating point
    /// (not I32, for a parameter of indices).
    template <class V> void read(std::string_view key, TensorShape shape, Parameter<V>& parameter) {
        const TensorInfo* info = expect_tensor(key, shape);
        Matrix<V> values(parameter.rows(), parameter.cols());
        file_.template read_values<V>(*info, values.flat());
        parameter.assign(values);
        consumed_.push_back(info->name);
    }
    /// How many elements a tensor of one dimension has, where the configuration does not tell. Throws FormatError when it is
    /// missing or has another number of dimensions.
    std::size_t length(std::string_view key) const {
        const TensorInfo* info = find(key);
        if (info == nullptr) refuse_missing(key, "a tensor of one dimension");
        if (info->shape.size() != 1) {
            throw FormatError("a tensor has the wrong shape", {.file = file_.path(), .subject = info->name, .expected = "one dimension", .found = detail::dims_text(info->shape)});
        }
        return info->shape[0];
    }
    /// Throws FormatError about a tensor that was read.
    [[noreturn]] void refuse_tensor(std::string_view key, std::string_view message, ErrorContext what) const {
        const TensorInfo* info = find(key);
        what.file = file_.path();
        what.subject = info != nullptr ? info->name : std::string(key);
        throw FormatError(message, std::move(what));
    }
    /// The tensor of all modules, "base_model.<key>" or "<key>", as a matrix; empty if the file lacks it. Throws FormatError
    /// when it has not two dimensions, or is not of floating point.
    Matrix<T> read_model(std::string_view key) {
        constexpr std::string_view prefix = "base_model.";
        const TensorInfo* info = file_.find(std::string(prefix) + std::string(key));
        if (info == nullptr) info = file_.find(std::string(key));
        if (info == nullptr) return {};
        if (info->shape.size() != 2) throw FormatError("a tensor has the wrong shape", {.file = file_.path(), .subject = info->name, .expected = "two dimensions", .found = detail::dims_text(info->shape)});
        Matrix<T> values = file_.template read_matrix<T>(info->name);
        consumed_.push_back(info->name);
        return values;
    }
    /// Names the configuration in an error about the file as a whole.
    [[noreturn]] void refuse(std::string_view message, ErrorContext what) const {
        what.file = config_path_;
        throw FormatError(message, std::move(what));
    }
    /// What all modules of the adapter share: made by `make` for the first.
    template <class Make> auto shared(Make make) {
        using Pointer = decltype(make());
        if (shared_ == nullptr) shared_ = make();
        return std::static_pointer_cast<typename Pointer::element_type>(shared_);
    }
    const std::shared_ptr<void>& shared_object() const noexcept { return shared_; }
    void set_shared_object(std::shared_ptr<void> object) { shared_ = std::move(object); }

private:
    [[noreturn]] void refuse_missing(std::string_view key, std::string expected) const {
        throw FormatError("a tensor is missing", {.file = file_.path(), .subject = "base_model.model." + module_ + "." + std::string(key), .expected = std::move(expected),
                          .found = consumed_.empty() ? why_ : "only " + consumed_.back()});
    }

    const Value& config_;
    const LoadOptions& options_;
    const TargetRules& rules_;
    const SafetensorsFile& file_;
    std::string config_path_;
    std::string module_;
    std::string why_ = "nothing of this module, though target_modules names it";
    std::vector<std::string> consumed_;
    std::shared_ptr<void> shared_;
};

}  // namespace PEFT_ISA_NAME
}  // namespace io
PEFT_END

PEFT_ISA_DETAIL_BEGIN

/// Throws the FormatError in flight again, of the same class, about a file.
[[noreturn]] PEFT_NOINLINE inline void rethrow_about(const std::string& path) {
    try {
        throw;
    } catch (const UnsupportedError& error) {
        throw UnsupportedError(error.what(), {.file = path});
    } catch (const FormatError& error) {
        throw FormatError(error.what(), {.file = path});
    }
}

template <class Member> Member option_of(const Value& value, std::string_view key, const std::string& path) {
    const auto refuse = [&](std::string_view expected) {
        throw FormatError("wrong value", {.file = path, .subject = std::string(key), .expected = std::string(expected), .found = value.describe()});
    };
    if constexpr (std::is_same_v<Member, bool>) {
        if (!value.is_bool()) refuse("true or false");
        return value.as_bool();
    } else if constexpr (std::is_same_v<Member, double>) {
        if (!value.is_number()) refuse("a number");
        return value.as_number();
    } else {
        if (!value.is_integer() || (!value.is_integer() ? true : value.describe().starts_with('-'))) refuse("an integer that is not negative");
        return static_cast<Member>(value.as_unsigned());
    }
}

/// An option from its configuration field. Not of one method: compiled once for each type of option.
template <Scalar T, class Member>
PEFT_NOINLINE void read_option(std::string_view key, Scope scope, const io::LoadContext<T>& context, Member& option) {
    const Value* value = context.config().find(key);
    if constexpr (std::is_same_v<Member, bool>) {
        if (scope == Scope::members) {
            option = value != nullptr && names_module(*value, context.module(), key, context.config_path());
            return;
        }
    }
    if (value != nullptr && !value->is_null()) option = option_of<Member>(*value, key, context.config_path());
    if constexpr (!std::is_same_v<Member, bool>) {
        if (scope == Scope::rank) {
            if (const auto rank = context.rules().rank_for(context.module())) option = static_cast<Member>(*rank);
            context.expect_rank(key, static_cast<std::size_t>(option));
        }
        if (scope == Scope::extent) context.expect_rank(key, static_cast<std::size_t>(option));
        if (scope == Scope::alpha) {
            if (const auto alpha = context.rules().alpha_for(context.module())) option = static_cast<Member>(*alpha);
        }
    }
}
template <Scalar T, class Options, class Member>
void read_field(const ConfigField<Options, Member>& field, const io::LoadContext<T>& context, Options& options) {
    read_option<T>(field.key, field.scope, context, options.*field.option);
}
template <Scalar T, class Options> void read_field(const ComputedField<Options>& field, const io::LoadContext<T>& context, Options& options) {
    const Value* value = context.config().find(field.key);
    if (value == nullptr || value->is_null()) return;
    try {
        field.read(*value, options);
    } catch (const FormatError&) {
        rethrow_about(context.config_path());
    }
}
template <Scalar T> PEFT_NOINLINE void expect_flag(std::string_view key, bool wanted, const io::LoadContext<T>& context) {
    const Value* value = context.config().find(key);
    if (value == nullptr || value->is_null()) return;
    if (option_of<bool>(*value, key, context.config_path()) != wanted) {
        throw UnsupportedError("this combination is not supported", {.file = context.config_path(), .subject = std::string(key), .expected = to_text(wanted), .found = to_text(!wanted)});
    }
}
template <Scalar T, class Options> void read_field(const FixedField& field, const io::LoadContext<T>& context, Options&) { expect_flag<T>(field.key, field.value, context); }

template <Scalar T, class V>
PEFT_NOINLINE void read_tensor(io::LoadContext<T>& context, std::span<const TensorKey> keys, std::string_view name, Parameter<V>& tensor, Role role, TensorShape on_disk) {
    if (role == Role::shared || role == Role::rebuilt) return;
    context.read(key_of(keys, name).key, on_disk.rank == 0 ? TensorShape::of(tensor.rows(), tensor.cols()) : on_disk, tensor);
}

template <class M> AnyAdapter<typename M::value_type> make_method(LayerShape shape, io::LoadContext<typename M::value_type>& context) {
    using T = typename M::value_type;
    typename M::Options options;
    std::apply([&](const auto&... field) { (..., read_field(field, context, options)); }, hf_format<M>::fields);
    if constexpr (requires { hf_format<M>::adjust(options, [](std::string_view) { return true; }); }) {
        hf_format<M>::adjust(options, [&](std::string_view key) { return context.find(key) != nullptr; });
    }
    if constexpr (requires { hf_format<M>::expect(shape, options, context); }) hf_format<M>::expect(shape, options, context);
    const auto build = [&] {
        try {
            return M(shape, options);
        } catch (const OptionError& error) {   // the file's fault, not the caller's
            context.refuse(error.what(), {.subject = context.module()});
        }
    };
    M method = build();
    if constexpr (requires { hf_format<M>::shared(options, context); }) {
        try {
            method.share(context.shared([&] { return hf_format<M>::shared(options, context); }));
        } catch (const ShapeError& error) {
            context.refuse(error.what(), {.subject = context.module()});
        }
    }
    if constexpr (requires { hf_format<M>::length_of; }) method.resize(context.length(key_of(hf_format<M>::keys, hf_format<M>::length_of).key));
    M::each_tensor(method, [&](std::string_view name, auto& tensor, Role role, TensorShape on_disk = {}) {
        read_tensor<T>(context, hf_format<M>::keys, name, tensor, role, on_disk);
    });
    if constexpr (requires { hf_format<M>::check(method, context); }) hf_format<M>::check(method, context);
    return AnyAdapter<T>(std::move(method));
}

PEFT_ISA_DETAIL_END

PEFT_BEGIN
namespace io {
inline namespace PEFT_ISA_NAME {

/// How one method is found and made.
template <Scalar T> struct RegistryEntry {
    std::string_view peft_type;
    bool (*claims)(const ConfigView&);
    void (*verify)(const ConfigView&);
    AnyAdapter<T> (*make)(LayerShape, LoadContext<T>&);
};

/// The entries of a method_list, in its order; methods without a file format are left out.
template <Scalar T, class... Methods> std::vector<RegistryEntry<T>> registry(method_list<Methods...>) {
    std::vector<RegistryEntry<T>> entries;
    const auto add = [&]<class M>(std::type_identity<M>) {
        static_assert(detail::HasFormat<M>, "peft: this method has no file format (no hf_format specialisation)");
        RegistryEntry<T> entry{hf_format<M>::peft_type, nullptr, nullptr, &detail::make_method<M>};
        if constexpr (requires(const ConfigView& c) { hf_format<M>::claims(c); }) entry.claims = [](const ConfigView& c) { return hf_format<M>::claims(c); };
        if constexpr (requires(const ConfigView& c) { hf_format<M>::verify(c); }) entry.verify = [](const ConfigView& c) { hf_format<M>::verify(c); };
        entries.push_back(entry);
    };
    (..., add(std::type_identity<Methods>{}));
    return entries;
}

/// The entry that claims a configuration. Throws FormatError when peft_type is missing or no text, UnsupportedError when
/// no method of the list has it.
template <Scalar T> const RegistryEntry<T>& find_method(const std::vector<RegistryEntry<T>>& entries, const Value& config, const std::string& path, BaseKind base = BaseKind::unstated) {
    const Value* type = config.find("peft_type");
    if (type == nullptr) throw FormatError("the configuration names no method", {.file = path, .subject = "peft_type", .expected = "a string", .found = "nothing"});
    if (!type->is_string()) throw FormatError("the configuration names no method", {.file = path, .subject = "peft_type", .expected = "a string", .found = type->describe()});
    const ConfigView view(config, base);
    std::string supported;
    for (const RegistryEntry<T>& entry : entries) {
        if (entry.peft_type == type->as_string() && (entry.claims == nullptr || entry.claims(view))) return entry;
        if (supported.find(entry.peft_type) == std::string::npos) supported += (supported.empty() ? "" : ", ") + std::string(entry.peft_type);
    }
    throw UnsupportedError("no method of this type is known", {.file = path, .subject = "peft_type", .expected = supported, .found = type->as_string()});
}

}  // namespace PEFT_ISA_NAME
}  // namespace io
PEFT_END
