#pragma once
#include <peft/io/digest.hpp>
#include <peft/io/file.hpp>
#include <peft/io/json.hpp>
#include <peft/io/registry.hpp>
#include <peft/layers/chain.hpp>

#include <algorithm>
#include <filesystem>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <vector>

PEFT_BEGIN
namespace io {
inline namespace PEFT_ISA_NAME {

/// A loaded adapter directory: makes the method of each module that its configuration targets, and keeps account of every
/// tensor. Methods are made at attach, when the shape of the layer is known. A call that throws changes nothing.
template <Scalar T> class LoadedAdapter {
public:
    LoadedAdapter(std::vector<RegistryEntry<T>> entries, const std::string& directory, const LoadOptions& options = {})
        : entries_(std::move(entries)),
          options_(options),
          config_path_(directory + "/adapter_config.json"),
          config_text_(read_file(config_path_, config_limit)),
          config_(read_config(config_path_, config_text_)),
          entry_(&find_method<T>(entries_, config_, config_path_, options.base)),
          rules_(config_, config_path_),
          file_(open_tensors(directory)) {
        const Metadata metadata = file_.metadata();
        if (const auto digest = metadata.find(config_digest_key); digest != metadata.end() && digest->second != config_digest(config_text_)) {
            throw FormatError("configuration and tensors are not of one save (or the configuration was edited: then remove the key from the metadata)",
                              {.file = config_path_, .subject = std::string(config_digest_key), .expected = digest->second, .found = config_digest(config_text_)});
        }
        if (entry_->verify != nullptr) {
            try {
                entry_->verify(ConfigView(config_, options_.base));
            } catch (const FormatError&) {   // the method does not know the file
                detail::rethrow_about(config_path_);
            }
        }
    }

    const Value& config() const noexcept { return config_; }
    const TargetRules& rules() const noexcept { return rules_; }
    const SafetensorsFile& file() const noexcept { return file_; }

    /// True if the adapter changes this module: a target, a layer saved in full, or a bias in the file.
    bool targets(std::string_view module) const {
        return rules_.targets(module) || rules_.saved_in_full(module) || bias_key(module).has_value();
    }

    /// The adapter of one module of this shape. Throws StateError when nothing targets it, or it was made already;
    /// FormatError naming file, tensor, expected and found when the file does not fit.
    AnyAdapter<T> method(std::string_view module, LayerShape shape) {
        Made result = make(module, shape);
        keep(result);
        return std::move(result.method);
    }

    /// The layer with its adapter on it. An lvalue base is referred to. Errors as method(), and those of adapt().
    template <class Base> auto attach(std::string_view module, Base&& base) {
        using L = typename detail::Holder<std::conditional_t<std::is_lvalue_reference_v<Base>, Base, std::remove_cvref_t<Base>>>::type;
        Made result = make(module, linear_access<L>::shape(base));
        auto layer = adapt(std::forward<Base>(base), std::move(result.method), stream_of(module));   // may find that the base does not do
        keep(result);
        return layer;
    }

    /// Names of the tensors that no module has taken yet.
    std::vector<std::string> left_over() const {
        std::vector<std::string> names;
        for (const TensorInfo& info : file_.tensors()) {
            if (consumed_.count(info.name) == 0) names.push_back(info.name);
        }
        return names;
    }

    /// To be called when all modules are attached. Throws FormatError naming the tensors that nothing consumed, or when
    /// nothing was attached at all.
    void finish() const {
        const auto names = left_over();
        if (made_.empty()) {
            throw FormatError("the adapter targets none of the modules", {.file = config_path_, .subject = "target_modules", .expected = "at least 1 module",
                              .found = names.empty() ? "0" : "0, and " + names.front()});
        }
        if (!names.empty()) {
            std::string list;
            for (std::size_t i = 0; i < names.size() && i < 4; ++i) list += (i == 0 ? "" : ", ") + names[i];
            if (names.size() > 4) list += ", ...";
            throw FormatError(std::to_string(names.size()) + " of " + std::to_string(file_.tensors().size()) + " tensors belong to no module that was attached",
                              {.file = file_.path(), .subject = names.front(), .found = list});
        }
    }

private:
    static constexpr std::uint64_t config_limit = 16u << 20;   // real ones have a few KiB

    /// A method, and what the account is with it.
    struct Made {
        AnyAdapter<T> method;
        std::set<std::string> consumed;
        std::set<std::string> made;
        std::shared_ptr<void> shared;
    };
    void keep(Made& result) noexcept {
        shared_ = std::move(result.shared);
        consumed_.swap(result.consumed);
        made_.swap(result.made);
    }
    Made make(std::string_view module, LayerShape shape) const {
        if (made_.count(std::string(module)) != 0) throw StateError("the adapter of this module was made already", {.file = config_path_, .subject = std::string(module)});
        LoadContext<T> context(config_, options_, rules_, file_, config_path_, module);
        context.set_shared_object(shared_);
        std::vector<AnyAdapter<T>> parts;
        const bool full = rules_.saved_in_full(module);
        if (full) {
            context.set_reason("nothing of this module, though modules_to_save names it");
            Trained<T> layer(shape, {.weight = true, .bias = context.find("bias") != nullptr});
            read_trained(context, layer, "weight", "bias");
            parts.emplace_back(std::move(layer));
        } else {
            if (rules_.targets(module)) parts.push_back(entry_->make(shape, context));
            if (const auto key = bias_key(module)) {
                Trained<T> bias(shape, {.weight = false, .bias = true});
                read_trained(context, bias, "", *key);
                parts.emplace_back(std::move(bias));   // on top: no method that upstream trains biases beside changes them
            }
        }
        if (parts.empty()) throw StateError("nothing in the configuration targets this module", {.file = config_path_, .subject = std::string(module)});
        AnyAdapter<T> whole = parts.size() == 1 ? std::move(parts.front()) : AnyAdapter<T>(Chain<T>(std::move(parts)));
        auto consumed = consumed_;
        consumed.insert(context.consumed().begin(), context.consumed().end());
        auto made = made_;
        made.insert(std::string(module));
        return {std::move(whole), std::move(consumed), std::move(made), context.shared_object()};
    }

    static Value read_config(const std::string& path, const std::string& text) {
        Value config = parse_json(text, path);
        if (!config.is_object()) throw FormatError("not a configuration", {.file = path, .expected = "an object", .found = config.describe()});
        return config;
    }
    static SafetensorsFile open_tensors(const std::string& directory) {
        const std::string path = directory + "/adapter_model.safetensors";
        if (!std::filesystem::exists(path) && std::filesystem::exists(directory + "/adapter_model.bin")) {
            throw FormatError("a pickle can run code and is not opened; save the adapter as safetensors", {.file = directory + "/adapter_model.bin", .expected = "adapter_model.safetensors"});
        }
        return SafetensorsFile(path);
    }

    /// The key of a bias that was trained beside the method: "base_layer.bias" where a method wraps the layer, else "bias".
    std::optional<std::string_view> bias_key(std::string_view module) const {
        if (rules_.bias() == BiasMode::none || (rules_.bias() == BiasMode::adapted && !rules_.targets(module))) return std::nullopt;
        const LoadContext<T> context(config_, options_, rules_, file_, config_path_, module);
        const std::string_view key = rules_.targets(module) ? "base_layer.bias" : "bias";
        if (context.find(key) != nullptr) return key;
        return std::nullopt;
    }
    static void read_trained(LoadContext<T>& context, Trained<T>& trained, std::string_view weight_key, std::string_view bias_key) {
        Trained<T>::each_tensor(trained, [&](std::string_view name, Parameter<T>& tensor, Role, TensorShape shape = {}) {
            context.read(name == "weight" ? weight_key : bias_key, shape.rank == 0 ? TensorShape::of(tensor.rows(), tensor.cols()) : shape, tensor);
        });
    }

    std::vector<RegistryEntry<T>> entries_;
    LoadOptions options_;
    std::string config_path_;
    std::string config_text_;
    Value config_;
    const RegistryEntry<T>* entry_;
    TargetRules rules_;
    SafetensorsFile file_;
    std::shared_ptr<void> shared_;   ///< what the methods of all modules hold together
    std::set<std::string> consumed_;
    std::set<std::string> made_;
};

/// Opens an adapter directory as Hugging Face PEFT writes it: adapter_config.json and adapter_model.safetensors. Everything
/// is validated before anything is used. Throws FormatError, UnsupportedError (a type this version lacks) or FileError.
/// The file of an adapter that took its start out of the base (PiSSA, OLoRA, ...) is refused unless `options.base` says which
/// weights it is put on:  load_adapter<float>(dir, {.base = BaseKind::original}).
template <Scalar T> LoadedAdapter<T> load_adapter(const std::string& directory, const LoadOptions& options = {}) {
    return {registry<T>(all_methods<T>{}), directory, options};
}

/// The same with a list of methods of your own: load_adapter<method_list<MyMethod<float>, LoRA<float>>>(dir).
template <class List>
    requires(!Scalar<List>)
auto load_adapter(const std::string& directory, const LoadOptions& options = {}) {
    return [&]<class First, class... Rest>(method_list<First, Rest...> list) {
        using T = typename First::value_type;
        return LoadedAdapter<T>(registry<T>(list), directory, options);
    }(List{});
}

}  // namespace PEFT_ISA_NAME
}  // namespace io
PEFT_END
