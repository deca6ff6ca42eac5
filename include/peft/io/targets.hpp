#pragma once
#include <peft/core/scalar.hpp>
#include <peft/core/value.hpp>
#include <peft/io/pattern.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

PEFT_BEGIN
namespace io {

/// Which biases an adapter file holds: none, those of all layers, or those of the layers the method changes ("lora_only").
enum class BiasMode { none, all, adapted };

}  // namespace io
PEFT_END

PEFT_ISA_DETAIL_BEGIN

/// FormatError about a key of a configuration.
[[noreturn]] PEFT_COLD inline void config_fault(std::string_view file, std::string_view key, std::string expected, const Value& found) {
    throw FormatError("wrong value in the configuration",
                      {.file = std::string(file), .subject = std::string(key), .expected = std::move(expected), .found = found.describe()});
}

/// The value under a key, or null if it is absent or null.
inline const Value* given(const Value& config, std::string_view key) {
    const Value* value = config.find(key);
    return value == nullptr || value->is_null() ? nullptr : value;
}

/// The strings of an array, none of them empty.
inline std::vector<std::string> config_names(const Value& value, std::string_view key, std::string_view file) {
    if (!value.is_array()) config_fault(file, key, "an array of names", value);
    std::vector<std::string> names;
    for (const Value& item : value.as_array()) {
        if (!item.is_string() || item.as_string().empty()) config_fault(file, key, "names that are not empty", item);
        names.push_back(item.as_string());
    }
    return names;
}

/// `module` is `name` or ends in "." + name.
inline bool is_or_ends_in(std::string_view module, std::string_view name) noexcept {
    if (module == name) return true;
    return module.size() > name.size() && module.ends_with(name) && module[module.size() - name.size() - 1] == '.';
}

inline bool equals_ignoring_case(std::string_view text, std::string_view lower) noexcept {
    const auto fold = [](char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c; };
    return std::equal(text.begin(), text.end(), lower.begin(), lower.end(), [&](char a, char b) { return fold(a) == b; });
}

/// True if `module` is one of those a list (suffixes, as upstream's feedforward_modules) or pattern names.
inline bool names_module(const Value& members, std::string_view module, std::string_view key, std::string_view path) {
    if (members.is_null()) return false;
    if (members.is_string()) return io::Pattern(members.as_string(), path).full_match(module);
    for (const Value& member : members.as_array(key)) {
        if (module.ends_with(member.as_string(key))) return true;
    }
    return false;
}

PEFT_ISA_DETAIL_END

PEFT_BEGIN
namespace io {
inline namespace PEFT_ISA_NAME {

/// No adapter has a rank near it; what is above comes from a damaged or hostile file.
inline constexpr std::size_t rank_limit = std::size_t{1} << 20;

/// Modules named as target_modules names them: a string is a pattern for the whole name, a list holds names or what
/// follows a dot at their end ("proj" does not name "q_proj").
class ModuleNames {
public:
    /// Names no module.
    ModuleNames() = default;
    /// Throws FormatError naming `file` and `key` unless `value` is a string or an array of strings that are not empty.
    ModuleNames(const Value& value, std::string_view key, std::string_view file) {
        if (value.is_string()) pattern_.emplace(value.as_string(), file, key);
        else if (value.is_array()) names_ = detail::config_names(value, key, file);
        else detail::config_fault(file, key, "a pattern or an array of names", value);
    }
    bool has(std::string_view module) const {
        if (pattern_) return pattern_->full_match(module);
        return std::any_of(names_.begin(), names_.end(), [&](const std::string& name) { return detail::is_or_ends_in(module, name); });
    }
    bool is_pattern() const noexcept { return pattern_.has_value(); }
    /// The whole name stands in the list.
    bool lists(std::string_view module) const { return std::find(names_.begin(), names_.end(), module) != names_.end(); }

private:
    std::optional<Pattern> pattern_;
    std::vector<std::string> names_;
};

/// What an adapter configuration says about modules, by their names: which it changes, with which rank and alpha, which
/// are saved in full. Everything is checked, and every pattern compiled, when it is made: FormatError names the file, the
/// key, what was expected and found. const calls may run in several threads.
///
///   exclude_modules      tested first; like target_modules
///   target_modules       see ModuleNames; "all-linear" in any case: all but the output embedding. Absent: no module.
///                        Refused: an empty string or list; null, unless modules_to_save or target_parameters name something
///                        (upstream then guesses from the architecture, which is not in the file)
///   modules_to_save      patterns of components; what they match, and what lies inside, is saved in full and not adapted
///   layers_to_transform  numbers of layers; only beside a list, where a module listed by its whole name needs no number.
///                        layers_pattern: what stands before the number
///   rank_pattern, alpha_pattern   the first key, in the order of the file, that matches the end of the name after a dot
///                        or the whole. The rank_pattern of ADALORA is of another kind and is not read.
///
/// Source: huggingface/peft, src/peft/tuners/tuners_utils.py and src/peft/utils/other.py.
class TargetRules {
public:
    /// `output_embeddings`: names of the modules that "all-linear" leaves out, in full or what follows a dot.
    explicit TargetRules(const Value& config, std::string_view file = {}, std::span<const std::string> output_embeddings = {})
        : output_embeddings_(output_embeddings.begin(), output_embeddings.end()) {
        if (!config.is_object()) detail::config_fault(file, "configuration", "an object", config);
        read_saved_in_full(config, file);
        read_targets(config, file);
        read_layers(config, file);
        const Value* type = detail::given(config, "peft_type");
        const bool is_adalora = type != nullptr && type->is_string() && type->as_string() == "ADALORA";
        if (!is_adalora) {
            read_patterns(config, "rank_pattern", file, [&](const Value& value, std::string_view key) {
                const bool fits = value.is_integer() && value.as_number() >= 1 && value.as_number() <= static_cast<double>(rank_limit);
                if (!fits) detail::config_fault(file, key, "an integer from 1 to " + std::to_string(rank_limit), value);
                ranks_.values.push_back(static_cast<std::size_t>(value.as_integer()));
            }, ranks_.patterns);
        }
        read_patterns(config, "alpha_pattern", file, [&](const Value& value, std::string_view key) {
            if (!value.is_number() || !is_finite(value.as_number())) detail::config_fault(file, key, "a number", value);
            alphas_.values.push_back(value.as_number());
        }, alphas_.patterns);
        read_bias(config, type, file);
    }

    /// True if the method is put on this module.
    bool targets(std::string_view module) const {
        if (module.empty() || excluded_.has(module) || saved_in_full(module)) return false;
        if (all_linear_) {
            return std::none_of(output_embeddings_.begin(), output_embeddings_.end(),
                                [&](const std::string& name) { return detail::is_or_ends_in(module, name); });
        }
        return targets_.lists(module) || (targets_.has(module) && (layers_.empty() || in_layers(module)));
    }
    /// True if the module, or one that holds it, is named by modules_to_save.
    bool saved_in_full(std::string_view module) const {
        return std::any_of(saved_in_full_.begin(), saved_in_full_.end(), [&](const Pattern& pattern) { return pattern.match_prefix(module); });
    }
    /// What rank_pattern says of the module, if anything; else the rank of the configuration holds.
    std::optional<std::size_t> rank_for(std::string_view module) const { return ranks_.find(module); }
    std::optional<double> alpha_for(std::string_view module) const { return alphas_.find(module); }
    BiasMode bias() const noexcept { return bias_; }

private:
    template <class V> struct PerModule {
        std::vector<Pattern> patterns;
        std::vector<V> values;

        std::optional<V> find(std::string_view module) const {
            for (std::size_t i = 0; i < patterns.size(); ++i)
                if (patterns[i].match_prefix(module)) return values[i];
            return std::nullopt;
        }
    };

    void read_saved_in_full(const Value& config, std::string_view file) {
        const Value* value = detail::given(config, "modules_to_save");
        if (value == nullptr) return;
        for (const std::string& name : detail::config_names(*value, "modules_to_save", file)) {
            saved_in_full_.emplace_back("(^|.*\\.)", name, "($|\\..*)", file, "modules_to_save");
        }
    }
    void read_targets(const Value& config, std::string_view file) {
        const Value* excluded = detail::given(config, "exclude_modules");
        const bool excludes = excluded != nullptr && !(excluded->is_string() && excluded->as_string().empty());
        if (excludes) excluded_ = ModuleNames(*excluded, "exclude_modules", file);

        const Value* value = config.find("target_modules");
        if (value == nullptr) return;
        if (value->is_null()) {
            const Value* parameters = detail::given(config, "target_parameters");
            if (!saved_in_full_.empty() || (parameters != nullptr && parameters->is_array() && !parameters->as_array().empty())) return;
        }
        const bool nothing = (value->is_string() && value->as_string().empty()) || (value->is_array() && value->as_array().empty());
        if (nothing) detail::config_fault(file, "target_modules", "a pattern or names that are not empty", *value);
        if (value->is_string() && detail::equals_ignoring_case(value->as_string(), "all-linear")) all_linear_ = true;
        else targets_ = ModuleNames(*value, "target_modules", file);
    }
    void read_layers(const Value& config, std::string_view file) {
        constexpr std::string_view key = "layers_to_transform";
        const auto add = [&](const Value& value) {
            if (!value.is_integer() || value.describe().starts_with('-')) detail::config_fault(file, key, "numbers of layers, from 0 on", value);
            layers_.push_back(static_cast<std::size_t>(value.as_unsigned()));
        };
        if (const Value* value = detail::given(config, key)) {
            if (value->is_array()) std::for_each(value->as_array().begin(), value->as_array().end(), add);
            else add(*value);
        }
        std::sort(layers_.begin(), layers_.end());
        if (!layers_.empty() && (all_linear_ || targets_.is_pattern())) {
            detail::config_fault(file, key, "null, since target_modules is a pattern", *config.find(key));
        }

        constexpr std::string_view pattern_key = "layers_pattern";
        std::vector<std::string> before;
        if (const Value* value = detail::given(config, pattern_key)) {
            if (value->is_string()) before.assign(value->as_string().empty() ? 0 : 1, value->as_string());
            else if (value->is_array()) before = detail::config_names(*value, pattern_key, file);
            else detail::config_fault(file, pattern_key, "a pattern or an array of patterns", *value);
            if (!before.empty() && layers_.empty()) detail::config_fault(file, pattern_key, "null without layers_to_transform", *value);
        }
        if (before.empty()) before.emplace_back();
        for (const std::string& pattern : before) layer_index_.emplace_back(pattern, file, pattern_key);
    }
    bool in_layers(std::string_view module) const {
        for (const LayerIndex& find : layer_index_) {
            // the first that matches decides, even if its layer is not among those wanted
            if (const auto index = find(module)) return std::binary_search(layers_.begin(), layers_.end(), *index);
        }
        return false;
    }
    template <class Add>
    static void read_patterns(const Value& config, std::string_view key, std::string_view file, const Add& add, std::vector<Pattern>& patterns) {
        const Value* value = detail::given(config, key);
        if (value == nullptr) return;
        if (!value->is_object()) detail::config_fault(file, key, "an object of patterns", *value);
        for (const Value::Member& member : value->as_object()) {
            const std::string subject = std::string(key) + "[\"" + printable(member.key, 120) + "\"]";
            patterns.emplace_back("(.*\\.)?(", member.key, ")$", file, subject);
            add(member.value, subject);
        }
    }
    void read_bias(const Value& config, const Value* type, std::string_view file) {
        const Value* value = detail::given(config, "bias");
        if (value == nullptr) return;
        const std::string text = value->is_string() ? value->as_string() : std::string();
        std::string own = "_only";   // upstream: "lora_only", "boft_only", ... after the type
        if (type != nullptr && type->is_string()) {
            std::string lower = type->as_string();
            for (char& c : lower) c = c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c;
            own = lower + own;
        }
        const bool is_own = text == own || (type == nullptr && text.size() > own.size() && text.ends_with(own));
        if (text == "none") bias_ = BiasMode::none;
        else if (text == "all") bias_ = BiasMode::all;
        else if (is_own) bias_ = BiasMode::adapted;
        else detail::config_fault(file, "bias", "\"none\", \"all\" or \"" + own + '"', *value);
    }

    std::vector<std::string> output_embeddings_;
    ModuleNames excluded_;
    ModuleNames targets_;
    bool all_linear_ = false;
    std::vector<Pattern> saved_in_full_;
    std::vector<std::size_t> layers_;   // sorted; empty: all
    std::vector<LayerIndex> layer_index_;
    PerModule<std::size_t> ranks_;
    PerModule<double> alphas_;
    BiasMode bias_ = BiasMode::none;
};

}  // namespace PEFT_ISA_NAME
}  // namespace io
PEFT_END
