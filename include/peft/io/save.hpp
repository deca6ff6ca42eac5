#pragma once
#include <peft/io/digest.hpp>
#include <peft/io/file.hpp>
#include <peft/io/json.hpp>
#include <peft/io/pattern.hpp>
#include <peft/io/safetensors.hpp>
#include <peft/io/targets.hpp>
#include <peft/layers/bank.hpp>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

PEFT_ISA_DETAIL_BEGIN

/// One field over all modules of a bank: what each module holds.
struct FieldValues {
    Scope scope = Scope::model;
    std::vector<std::pair<std::string, Value>> modules;
};

/// 8.0 as 8: upstream writes lora_alpha as an integer where it is one.
inline Value without_fraction(const Value& value) {
    if (!value.is_real()) return value;
    const double number = value.as_real();
    if (number != std::trunc(number) || std::abs(number) > 1e15) return value;
    return Value(static_cast<std::int64_t>(number));
}

inline bool same_number(const Value& a, const Value& b) {
    if (a.is_integer() && b.is_integer()) return a == b;   // as doubles, large ones that differ would be equal
    if (a.is_number() && b.is_number()) return a.as_number() == b.as_number();
    return a == b;
}

/// Text that a pattern key matches literally.
inline std::string escaped(std::string_view module) {
    constexpr std::string_view special = ".^$*+?{}[]\\|()";
    std::string text;
    for (const char c : module) {
        if (special.find(c) != std::string_view::npos) text += '\\';
        text += c;
    }
    return text;
}

/// Brings config[key] and its pattern in line with the modules' values; what says so already is left as it is.
inline void compose_pattern(Value& config, const std::string& key, std::string_view pattern_key, const FieldValues& field) {
    const auto plain = [&](const Value& value) { return field.scope == Scope::alpha ? without_fraction(value) : value; };
    bool agree = config.find(key) != nullptr;
    if (agree) {
        const io::TargetRules rules(config, "");
        for (const auto& [module, value] : field.modules) {
            Value said = *config.find(key);
            if (field.scope == Scope::rank) {
                if (const auto rank = rules.rank_for(module)) said = Value(*rank);
            } else if (const auto alpha = rules.alpha_for(module)) {
                said = Value(*alpha);
            }
            agree = agree && same_number(said, value);
        }
    }
    if (agree) return;
    // The most frequent value is the model's, the others become patterns.
    std::size_t best = 0;
    std::size_t most = 0;
    for (std::size_t i = 0; i < field.modules.size(); ++i) {
        std::size_t count = 0;
        for (const auto& other : field.modules) count += same_number(other.second, field.modules[i].second) ? 1 : 0;
        if (count > most) {
            most = count;
            best = i;
        }
    }
    config.set(key, plain(field.modules[best].second));
    Value patterns{Value::Object{}};
    for (const auto& [module, value] : field.modules) {
        if (!same_number(value, field.modules[best].second)) patterns.set("^" + escaped(module), plain(value));
    }
    config.set(pattern_key, patterns);
}

/// Brings a list of modules in line with a flag that each module has. A list names modules by their ends ("fc" names "my_fc"
/// too); where that would name a wrong one, a pattern takes its place.
inline void compose_members(Value& config, const std::string& key, const FieldValues& field) {
    const auto says_so = [&](const Value& members) {
        const bool readable = members.is_string() || members.is_array();   // what is neither names nothing and is written over
        for (const auto& [module, value] : field.modules) {
            if ((readable && names_module(members, module, key, "")) != value.as_bool()) return false;
        }
        return true;
    };
    const Value* said = config.find(key);
    if (said != nullptr && says_so(*said)) return;
    Value::Array names;
    std::string pattern;
    for (const auto& [module, value] : field.modules) {
        if (!value.as_bool()) continue;
        names.emplace_back(module);
        pattern += (pattern.empty() ? "" : "|") + escaped(module);
    }
    Value list(std::move(names));
    config.set(key, says_so(list) ? std::move(list) : Value(std::move(pattern)));
}

inline Value names_of(const std::vector<std::string>& modules) {
    Value::Array array;
    for (const std::string& module : modules) array.emplace_back(module);
    return Value(std::move(array));
}

PEFT_ISA_DETAIL_END

PEFT_BEGIN
namespace io {
inline namespace PEFT_ISA_NAME {

/// The tensors of a bank under their full names, and the configuration that says what they are. Throws OptionError when
/// modules disagree where one file can hold only one answer (different methods, options, or which biases are trained), or when
/// names cannot tell modules apart ("head" saved in full beside a target "decoder.head").
template <Scalar T> class AdapterContents {
public:
    explicit AdapterContents(const Bank<T>& bank) : config_(bank.config()) {
        if (config_.is_null()) config_ = Value(Value::Object{});
        find_type(bank);
        for (const BankEntry<T>& entry : bank.entries()) {
            modules_.push_back(entry.module);
            add(entry);
        }
        compose();
    }

    const Value& config() const noexcept { return config_; }
    const std::vector<TensorData>& tensors() const noexcept { return tensors_; }

private:
    using FieldValues = detail::FieldValues;

    void find_type(const Bank<T>& bank) {
        for (const BankEntry<T>& entry : bank.entries()) {
            for (const Description<T>& part : entry.parts) {
                if (part.peft_type == full_peft_type) continue;
                if (!type_.empty() && type_ != part.peft_type) {
                    throw OptionError("one file holds one method", {.subject = entry.module, .expected = type_, .found = part.peft_type});
                }
                type_ = part.peft_type;
            }
        }
        if (type_.empty()) type_ = std::string(full_peft_type);
    }

    void add(const BankEntry<T>& entry) {
        std::size_t methods = 0;
        for (const Description<T>& part : entry.parts) methods += part.peft_type == type_ ? 1 : 0;
        if (methods > 1) throw OptionError("one file holds one method for each module", {.subject = entry.module, .expected = "1", .found = std::to_string(methods)});
        for (const Description<T>& part : entry.parts) {
            if (part.peft_type == type_) {
                targets_.push_back(entry.module);
                for (const DescribedField& field : part.fields) {
                    FieldValues& values = fields_[field.key];
                    values.scope = field.scope;
                    values.modules.emplace_back(entry.module, field.value);
                }
                for (const DescribedTensor<T>& tensor : part.tensors) {
                    if (tensor.of_model && !first_of_shared(entry.module, tensor)) continue;
                    if (tensor.role == Role::rebuilt) continue;
                    append((tensor.of_model ? "base_model." : "base_model.model." + entry.module + ".") + tensor.key, tensor);
                }
                continue;
            }
            const bool whole = std::any_of(part.tensors.begin(), part.tensors.end(), [](const auto& tensor) { return tensor.key == "weight"; });
            if (whole) saved_in_full_.push_back(entry.module);
            else (methods == 0 ? other_biases_ : target_biases_) += 1;
            for (const DescribedTensor<T>& tensor : part.tensors) {
                append("base_model.model." + entry.module + (whole || methods == 0 ? "." : ".base_layer.") + tensor.key, tensor);
            }
        }
    }

    /// A tensor of all modules stands in the file once, or is made once on loading, so all must hold the same one. True for the
    /// first module that has it.
    bool first_of_shared(const std::string& module, const DescribedTensor<T>& tensor) {
        const auto [at, first] = shared_.emplace(tensor.key, tensor);
        if (first || at->second.values == tensor.values) return first;
        const auto one = std::as_bytes(std::as_const(at->second.values->value).flat()), other = std::as_bytes(std::as_const(tensor.values->value).flat());
        if (at->second.shape == tensor.shape && std::equal(one.begin(), one.end(), other.begin(), other.end())) return false;
        throw OptionError("modules of one file must share this tensor", {.subject = module + ": " + tensor.key, .expected = "one object given to all of them"});
    }

    void append(const std::string& name, const DescribedTensor<T>& tensor) {
        TensorData saved;
        saved.name = name;
        saved.shape.assign(tensor.shape.extent.begin(), tensor.shape.extent.begin() + static_cast<std::ptrdiff_t>(tensor.shape.rank));
        if (tensor.values != nullptr) {
            saved.dtype = dtype_of<T>();
            saved.bytes = std::as_bytes(std::as_const(tensor.values->value).flat());
        } else {
            saved.bytes = std::as_bytes(std::as_const(tensor.indices->value).flat());
            saved.dtype = dtype_of<std::int32_t>();
        }
        tensors_.push_back(std::move(saved));
    }

    void compose() {
        config_.set("peft_type", Value(type_));
        set_default("auto_mapping", Value());
        set_default("base_model_name_or_path", Value());
        set_default("inference_mode", Value(true));
        set_default("revision", Value());
        set_default("task_type", Value());
        for (const auto& [key, field] : fields_) compose_field(key, field);
        compose_targets();
        expect_told_apart();
        const bool full_alone = type_ == full_peft_type;
        if (!full_alone && (target_biases_ != 0 || other_biases_ != 0)) {
            const Value* said = config_.find("bias");
            const bool any = said != nullptr && said->is_string() && said->as_string() != "none";
            if (!any || (other_biases_ != 0 && said->as_string() != "all")) config_.set("bias", Value(other_biases_ != 0 ? "all" : only_bias()));
        } else if (type_ == "LORA") {
            set_default("bias", Value("none"));
        }
        if (type_ == "LORA") {   // what upstream's own files always say
            set_default("fan_in_fan_out", Value(false));
            set_default("init_lora_weights", Value(true));
        }
    }
    std::string only_bias() const {
        std::string name;
        for (const char c : type_) name += c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c;
        return name + "_only";
    }

    void compose_field(const std::string& key, const FieldValues& field) {
        if (field.scope == Scope::rank) return detail::compose_pattern(config_, key, "rank_pattern", field);
        if (field.scope == Scope::alpha) return detail::compose_pattern(config_, key, "alpha_pattern", field);
        if (field.scope == Scope::members) return detail::compose_members(config_, key, field);
        const Value& value = field.modules.front().second;
        for (const auto& [module, other] : field.modules) {
            if (other != value) throw OptionError("modules of one file must agree in this option", {.subject = module + ": " + key, .expected = value.describe(), .found = other.describe()});
        }
        const Value* said = config_.find(key);
        if (said == nullptr || !detail::same_number(*said, value)) config_.set(key, value);
    }

    void compose_targets() {
        if (!targets_.empty()) {
            bool agree = config_.find("target_modules") != nullptr && !config_.find("target_modules")->is_null();
            if (agree) {
                const TargetRules rules(config_, "");
                for (const std::string& module : targets_) agree = agree && rules.targets(module);
            }
            if (!agree) {
                config_.set("target_modules", detail::names_of(targets_));
                for (const std::string_view key : {"exclude_modules", "layers_to_transform", "layers_pattern"}) {   // of the old targets
                    if (config_.find(key) != nullptr) config_.set(key, Value());
                }
            }
        }
        if (!saved_in_full_.empty()) {
            bool agree = config_.find("modules_to_save") != nullptr && !config_.find("modules_to_save")->is_null();
            if (agree) {
                const TargetRules rules(config_, "");
                for (const std::string& module : saved_in_full_) agree = agree && rules.saved_in_full(module);
            }
            if (!agree) config_.set("modules_to_save", detail::names_of(saved_in_full_));
        } else {
            set_default("modules_to_save", Value());
        }
    }

    /// Names in a configuration also mean what ends in them: whoever reads it must find every module where it is.
    void expect_told_apart() const {
        const TargetRules rules(config_, "");
        const auto has = [](const std::vector<std::string>& modules, const std::string& module) {
            return std::find(modules.begin(), modules.end(), module) != modules.end();
        };
        for (const std::string& module : modules_) {
            const bool full = has(saved_in_full_, module);
            const bool target = has(targets_, module);
            if (rules.saved_in_full(module) == full && rules.targets(module) == target) continue;
            throw OptionError("the names of the configuration cannot tell this module from others", {.subject = module,
                              .expected = full ? "saved in full" : target ? "a target" : "neither a target nor saved in full",
                              .found = rules.saved_in_full(module) ? "saved in full" : rules.targets(module) ? "a target" : "neither"});
        }
    }

    void set_default(std::string_view key, Value value) {
        if (config_.find(key) == nullptr) config_.set(key, std::move(value));
    }

    Value config_;
    std::string type_;
    std::map<std::string, FieldValues> fields_;
    std::map<std::string, DescribedTensor<T>> shared_;
    std::vector<std::string> modules_;
    std::vector<std::string> targets_;
    std::vector<std::string> saved_in_full_;
    std::size_t target_biases_ = 0;
    std::size_t other_biases_ = 0;
    std::vector<TensorData> tensors_;
};

/// Writes a bank as an adapter directory of Hugging Face PEFT: adapter_config.json and adapter_model.safetensors. Both are
/// written beside the old ones and synced before they take their names; the tensors carry a digest of the configuration,
/// so that a pair torn by a crash between the two names is refused on reading. Equal banks give equal bytes.
/// Throws OptionError when the bank does not fit one file, FileError when the system refuses; the old files then stay.
template <Scalar T> void save_adapter(const std::string& directory, const Bank<T>& bank) {
    const AdapterContents<T> contents(bank);
    const std::string text = dump_json(contents.config(), 2);
    std::error_code fault;
    std::filesystem::create_directories(directory, fault);
    if (fault) throw FileError("the directory cannot be made: " + fault.message(), {.file = directory});
    AtomicFile tensors(directory + "/adapter_model.safetensors");
    AtomicFile config(directory + "/adapter_config.json");
    write_safetensors(tensors, contents.tensors(), {{"format", "pt"}, {std::string(config_digest_key), config_digest(text)}});
    config.write(std::string_view(text));
    commit_all({&tensors, &config});
}

}  // namespace PEFT_ISA_NAME
}  // namespace io
PEFT_END
