#pragma once
#include "golden_model.hpp"
#include "nola_stages.hpp"
#include "replay.hpp"

#include <cstdio>

namespace golden {

/// What a case asks for that there is no builder or method for.
struct Unsupported {
    std::string reason;
};

/// What a replay reports besides the comparisons.
struct Outcome {
    std::string resave = "-";
    std::string fault;
};

// --- cases of Hugging Face PEFT itself

struct Stage {
    const char* module;
    Activation after;
};

/// The networks of golden/README.md that are chains of Linears.
inline const std::vector<Stage>* stages_of(const std::string& model) {
    static const std::vector<Stage> mlp{{"fc1", Activation::tanh}, {"fc2", Activation::none}};
    static const std::vector<Stage> mlp3{{"fc1", Activation::tanh}, {"fc2", Activation::tanh}, {"head", Activation::none}};
    if (model == "mlp" || model == "mlp_conv1d") return &mlp;
    if (model == "mlp3") return &mlp3;
    return nullptr;
}

template <class T> struct NamedAdapter {
    std::string name;         ///< empty when the case has only one
    std::string directory;
    std::unique_ptr<peft::io::LoadedAdapter<T>> loaded;
};

/// Where the factors start, if init_lora_weights says so by name.
inline std::string start_of(const std::string& directory) {
    const std::string path = directory + "/adapter_config.json";
    if (!std::filesystem::exists(path)) return {};
    const peft::Value config = peft::io::parse_json(peft::io::read_file(path, 1u << 24), path);
    return std::string(peft::ConfigView(config).text("init_lora_weights"));
}
inline bool taken_from_base(const std::string& start) { return start.starts_with("pissa") || start == "olora" || start == "corda" || start == "lora_ga"; }
inline bool repeatable(const std::string& start) { return start.starts_with("pissa") || start == "olora"; }

/// Opens a directory, telling of the model what the case knows: the largest of the targets.
template <class T> peft::io::LoadedAdapter<T> open_adapter(const Case<T>& c, const std::vector<Stage>& stages, const std::string& directory, peft::BaseKind base) {
    peft::io::LoadOptions options{.base = base, .largest = {}};
    const auto probe = peft::io::load_adapter<T>(directory, options);
    for (const Stage& stage : stages) {
        const std::string weight = std::string("base.") + stage.module + ".weight";
        if (!probe.targets(stage.module) || !c.has(weight)) continue;
        const auto w = c.input(weight);
        const bool transposed = c.text("model") == "mlp_conv1d";
        options.largest.in = std::max(options.largest.in, transposed ? w.rows() : w.cols());
        options.largest.out = std::max(options.largest.out, transposed ? w.cols() : w.rows());
    }
    return peft::io::load_adapter<T>(directory, options);
}

template <class T> std::vector<NamedAdapter<T>> open_adapters(const Case<T>& c, const std::vector<Stage>& stages, peft::BaseKind base) {
    std::vector<NamedAdapter<T>> adapters;
    const auto open = [&](const std::string& name, const std::string& directory) {
        adapters.push_back({name, directory, std::make_unique<peft::io::LoadedAdapter<T>>(open_adapter<T>(c, stages, directory, base))});
    };
    const peft::Value* directories = c.json().find("adapter_dirs");
    if (directories == nullptr) {
        if (!std::filesystem::exists(c.directory() + "/adapter/adapter_config.json")) throw Unsupported{"no adapter directory"};
        open("", c.directory() + "/adapter");
        return adapters;
    }
    const peft::Value* active = c.json().find("active");
    for (const auto& member : directories->as_object()) {
        bool wanted = active == nullptr;
        if (active != nullptr) {
            for (const auto& name : active->as_array()) wanted = wanted || name.as_string() == member.key;
        }
        if (wanted) open(member.key, c.directory() + "/" + member.value.as_string());
    }
    if (active != nullptr) {   // the order of 'active' counts
        std::vector<NamedAdapter<T>> ordered;
        for (const auto& name : active->as_array()) {
            for (auto& adapter : adapters) {
                if (adapter.name == name.as_string()) ordered.push_back(std::move(adapter));
            }
        }
        adapters = std::move(ordered);
    }
    return adapters;
}

template <class T, class Base> Outcome replay_peft(Case<T>& c, const std::vector<Stage>& stages, peft::BaseKind base = peft::BaseKind::unstated) {
    if (c.json().find("weights") != nullptr) throw Unsupported{"weighted combination of adapters"};
    Outcome outcome;
    auto adapters = open_adapters(c, stages, base);
    Modules<T, Base> modules;
    const bool residual = base == peft::BaseKind::residual;
    for (const Stage& stage : stages) modules.push_back(make_module<T, Base>(c, stage.module, std::string(stage.module) + ".", stage.after, residual));

    if (const peft::Value* rows = c.json().find("adapter_names")) {   // one adapter for each row: inference only
        peft::Matrix<T> x = c.input("x");
        for (auto& module : modules) {
            peft::PerRow<Base> mixed(module->base);
            std::map<std::string, std::size_t> number;
            for (auto& adapter : adapters) {
                if (adapter.loaded->targets(module->name)) number[adapter.name] = mixed.add(adapter.loaded->method(module->name, module->base.shape()));
            }
            std::vector<std::size_t> which;
            for (const auto& name : rows->as_array()) which.push_back(number.count(name.as_string()) != 0 ? number[name.as_string()] : mixed.base_only);
            peft::Matrix<T> out(x.rows(), module->base.shape().out);
            mixed.forward(x, out, which);
            x = apply(module->after, out);
        }
        for (auto& adapter : adapters) adapter.loaded->finish();
        c.compare("y", x);
        c.compare("y_f64", x);
        return outcome;
    }

    std::vector<peft::Bank<T>> banks;
    for (auto& adapter : adapters) banks.emplace_back(adapter.loaded->config());
    for (auto& module : modules) {
        std::vector<std::size_t> owners;
        std::vector<peft::AnyAdapter<T>> methods;
        for (std::size_t k = 0; k < adapters.size(); ++k) {
            if (!adapters[k].loaded->targets(module->name)) continue;
            methods.push_back(adapters[k].loaded->method(module->name, module->base.shape()));
            owners.push_back(k);
        }
        if (methods.empty()) continue;
        for (std::size_t k = 1; k < methods.size(); ++k) {
            // Upstream takes the norms of such a method from what the others merged, but not in forward.
            if (methods[k].needs_readable_base() && owners[k] != owners[k - 1]) throw Unsupported{"a method that reads the base above another adapter"};
        }
        const bool chained = methods.size() > 1;
        module->adapt(chained ? peft::AnyAdapter<T>(peft::Chain<T>(std::move(methods))) : std::move(methods.front()));
        if (chained) {
            auto parts = module->layer->method().template get_if<peft::Chain<T>>()->parts();
            for (std::size_t k = 0; k < parts.size(); ++k) banks[owners[k]].add(module->name, parts[k]);
        } else {
            banks[owners.front()].add(module->name, *module->layer);
        }
    }
    for (auto& adapter : adapters) adapter.loaded->finish();

    for (const auto& module : modules) {   // projections that were made from the seed
        const auto* vera = module->layer == nullptr ? nullptr : module->layer->method().template get_if<peft::VeRA<T>>();
        if (vera == nullptr || !c.has("buffer.vera_A")) continue;
        const auto same = [&](const char* name, const peft::Parameter<T>& made) {
            const auto wanted = c.input(name);
            return wanted.rows() == made.rows() && wanted.cols() == made.cols() && std::memcmp(wanted.data(), made.flat().data(), wanted.size() * sizeof(T)) == 0;
        };
        if (!same("buffer.vera_A", vera->projection()->a) || !same("buffer.vera_B", vera->projection()->b)) outcome.fault = "the projections are not upstream's";
    }

    const peft::Matrix<T> y = infer<T, Base>(modules, c.input("x"));
    c.compare("y", y);
    c.compare("y_f64", y);
    train<T, Base>(c, modules);
    for (std::size_t k = 0; k < adapters.size(); ++k) {
        const std::string prefix = "grad." + (adapters[k].name.empty() ? "" : adapters[k].name + ".");
        const peft::io::AdapterContents<T> contents(banks[k]);
        for (const auto& entry : banks[k].entries()) {
            for (const auto& part : entry.parts) {
                for (const auto& tensor : part.tensors) {
                    if (tensor.values == nullptr || tensor.values->grad.empty()) continue;
                    for (const auto& saved : contents.tensors()) {     // the name it has in the file
                        if (saved.bytes.data() == reinterpret_cast<const std::byte*>(tensor.values->value.data())) c.compare(prefix + saved.name, std::as_const(tensor.values->grad));
                    }
                }
            }
        }
    }
    if (const std::string fault = merge<T, Base>(c, modules, y); !fault.empty()) outcome.fault = fault;
    outcome.resave = "same";
    for (std::size_t k = 0; k < adapters.size(); ++k) {
        const peft_test::TemporaryDirectory copy;
        peft::io::save_adapter(copy.path(), banks[k]);
        const std::string difference = compare_directories(adapters[k].directory, copy.path());
        if (!difference.empty()) outcome.resave = difference;
    }
    return outcome;
}

/// A case whose start was taken out of the base: plain arithmetic on the residual base, and the start taken out of the
/// original base again where that can be done.
template <class T, class Base> Outcome replay_from_base(Case<T>& c, const std::vector<Stage>& stages, const std::string& start) {
    Outcome outcome = replay_peft<T, Base>(c, stages, peft::BaseKind::residual);
    if (!repeatable(start)) return outcome;
    Case<T> again(c.directory());
    again.leave_out("delta.");   // of the residual base
    again.expect_single_precision_start();
    const Outcome second = replay_peft<T, Base>(again, stages, peft::BaseKind::original);
    if (again.compared() != again.comparable()) outcome.fault = "on the original base not everything was compared";
    if (!second.fault.empty()) outcome.fault = "on the original base: " + second.fault;
    if (second.resave != "same") outcome.resave = "original-" + second.resave;
    c.absorb(again);
    return outcome;
}

/// y of the case's network with one adapter directory.
template <class T, class Base> peft::Matrix<T> forward_with(Case<T>& c, const std::vector<Stage>& stages, const std::string& directory, peft::BaseKind base,
                                                            std::map<std::string, peft::AnyAdapter<T>>& methods) {
    auto loaded = open_adapter<T>(c, stages, directory, base);
    Modules<T, Base> modules;
    for (const Stage& stage : stages) {
        modules.push_back(make_module<T, Base>(c, stage.module, std::string(stage.module) + ".", stage.after, base == peft::BaseKind::residual));
        modules.back()->adapt(loaded.method(stage.module, modules.back()->base.shape()));
        methods.insert_or_assign(stage.module, modules.back()->layer->method());
    }
    loaded.finish();
    return infer<T, Base>(modules, c.input("x"));
}

/// The conversion of a start-from-base adapter into a plain one: upstream's files, and ours made from its two.
template <class T, class Base> Outcome replay_conversion(Case<T>& c, const std::vector<Stage>& stages) {
    using Methods = std::map<std::string, peft::AnyAdapter<T>>;
    Outcome outcome;
    const auto directory = [&](const std::string& name) { return c.directory() + "/" + c.json().at("adapter_dirs").at(name).as_string(); };
    Methods trained, converted, repeated, initial;
    const auto y = forward_with<T, Base>(c, stages, directory("trained"), peft::BaseKind::residual, trained);
    c.compare("y", y);
    c.compare("y_f64", y);
    c.compare("y_converted_f64", forward_with<T, Base>(c, stages, directory("converted"), peft::BaseKind::unstated, converted));
    Case<T> again(c.directory());
    again.expect_single_precision_start();
    again.compare("y_f64", forward_with<T, Base>(again, stages, directory("trained"), peft::BaseKind::original, repeated));
    c.absorb(again);
    forward_with<T, Base>(c, stages, directory("init"), peft::BaseKind::residual, initial);
    for (const Stage& stage : stages) {
        const auto& theirs = *converted.at(stage.module).template get_if<peft::LoRA<T>>();
        const auto ours = peft::difference(*trained.at(stage.module).template get_if<peft::LoRA<T>>(), initial.at(stage.module).template get_if<peft::LoRA<T>>()->factors());
        const auto same = [](peft::MatrixView<const T> a, peft::MatrixView<const T> b) {
            return a.size() == b.size() && a.rows() == b.rows() && std::memcmp(a.data(), b.data(), a.size() * sizeof(T)) == 0;
        };
        if (ours.options().rank != theirs.options().rank || ours.options().alpha != theirs.options().alpha || !same(ours.factors().a, theirs.factors().a) ||
            !same(ours.factors().b, theirs.factors().b)) {
            outcome.fault = std::string("the conversion of ") + stage.module + " differs from upstream's";
        }
    }
    return outcome;
}

// --- cases of the methods' own repositories

/// One Linear of such a case: its place in the network, its method, and what its tensors are called.
template <class T> struct MethodStage {
    std::string module;
    std::string key;            ///< before "weight" and "bias"
    Activation after;
    std::string suffix;         ///< after the tensor's name
    peft::AnyAdapter<T> (*make)(peft::LayerShape, const peft::Value& config);
    void (*fill)(const Case<T>&, peft::AnyAdapter<T>&) = nullptr;   ///< where the case's tensors are not the method's
    std::string (*name)(std::string_view tensor) = nullptr;         ///< where they are called otherwise
    bool branch_only = false;                                       ///< the class adds nothing to a Linear: the base is zero
};

template <class T> std::vector<MethodStage<T>> method_stages(const std::string& cls, const std::string& method) {
    const auto ssf = [](peft::LayerShape shape, const peft::Value&) { return peft::AnyAdapter<T>(peft::SSF<T>(shape)); };
    if (cls == "ssf_ada, init_ssf_scale_shift") return {{"fc", "fc.", Activation::none, "", ssf}};
    if (cls == "Mlp(tuning_mode='ssf')") return {{"fc1", "fc1.", Activation::gelu, "_1", ssf}, {"fc2", "fc2.", Activation::none, "_2", ssf}};
    if (cls == "Linear" && method == "LoRA (loralib)") {
        return {{"layer", "", Activation::none, "", [](peft::LayerShape shape, const peft::Value& config) {
                     return peft::AnyAdapter<T>(peft::LoRA<T>(shape, {.rank = static_cast<std::size_t>(config.at("r").as_unsigned()), .alpha = config.at("lora_alpha").as_number()}));
                 }}};
    }
    if (cls.starts_with("LoRA(use_nola=True)")) {   // the module is called as the delta is: delta.weight
        return {{"weight", "base.", Activation::none, "", [](peft::LayerShape shape, const peft::Value& config) {
                     return make_nola<T>(shape, config, "rank", "num_basis_A", "num_basis_B", config.at("alpha").as_number());
                 }, &fill_nola_linear<T>, &nola_linear_name}};
    }
    if (cls == "NOLA2") {
        return {{"fc", "", Activation::none, "", [](peft::LayerShape shape, const peft::Value& config) { return make_nola<T>(shape, config, "rank", "ka", "kb", 1); }, &fill_nola2<T>, nullptr, true}};
    }
    return {};
}

template <class T> Outcome replay_method(Case<T>& c, const std::vector<MethodStage<T>>& stages) {
    using Base = peft::DenseLinear<T>;
    Outcome outcome;
    Modules<T, Base> modules;
    peft::Bank<T> bank;
    for (const auto& stage : stages) {
        std::unique_ptr<Module<T, Base>> module;
        if (stage.branch_only) module.reset(new Module<T, Base>{stage.module, stage.key, Base({c.input("x").cols(), c.input("y").cols()}, false), stage.after, nullptr, nullptr, {}, {}});
        else module = make_module<T, Base>(c, stage.module, stage.key, stage.after);
        auto method = stage.make(module->base.shape(), c.json().at("config"));
        if (stage.fill != nullptr) stage.fill(c, method);
        else peft::AnyAdapter<T>::each_tensor(method, [&](std::string_view name, auto& tensor, peft::Role, peft::TensorShape) {
            if constexpr (std::is_same_v<typename std::remove_reference_t<decltype(tensor)>::value_type, T>) {
                const auto values = c.input("adapter." + std::string(name) + stage.suffix);
                tensor.assign(peft::MatrixView<const T>(values.data(), tensor.rows(), tensor.cols()));
            }
        });
        module->adapt(std::move(method));
        bank.add(module->name, *module->layer);
        modules.push_back(std::move(module));
    }
    const peft::Matrix<T> y = infer<T, Base>(modules, c.input("x"));
    c.compare("y", y);
    c.compare("y_f64", y);
    train<T, Base>(c, modules);
    for (std::size_t k = 0; k < stages.size(); ++k) {
        peft::AnyAdapter<T>::each_tensor(modules[k]->layer->method(), [&](std::string_view name, auto& tensor, peft::Role, peft::TensorShape) {
            if constexpr (std::is_same_v<typename std::remove_reference_t<decltype(tensor)>::value_type, T>) {
                const std::string called = stages[k].name != nullptr ? stages[k].name(name) : std::string(name);
                c.compare("grad." + called + stages[k].suffix, peft::MatrixView<const T>(std::as_const(tensor).grad()));
            }
        });
    }
    outcome.fault = merge<T, Base>(c, modules, y);

    // Our own round trip: saved, loaded onto the same bases, the same output to the bit, and saved again the same files.
    const peft_test::TemporaryDirectory first, second;
    peft::io::save_adapter(first.path(), bank);
    auto loaded = peft::io::load_adapter<T>(first.path());
    peft::Bank<T> again(loaded.config());
    for (auto& module : modules) {
        module->adapt(loaded.method(module->name, module->base.shape()));
        again.add(module->name, *module->layer);
    }
    loaded.finish();
    peft::io::save_adapter(second.path(), again);
    outcome.resave = compare_directories(first.path(), second.path());
    const peft::Matrix<T> reloaded = infer<T, Base>(modules, c.input("x"));
    if (outcome.resave.empty()) outcome.resave = std::memcmp(reloaded.data(), y.data(), y.size() * sizeof(T)) == 0 ? "same" : "output";
    return outcome;
}

// --- any case

template <class T> Outcome dispatch(Case<T>& c) {
    if (c.of_methods()) {
        const auto stages = method_stages<T>(c.text("cls"), c.text("method"));
        if (stages.empty()) throw Unsupported{"class " + c.text("cls")};
        return replay_method<T>(c, stages);
    }
    const std::string model = c.text("model");
    const auto* stages = stages_of(model);
    if (stages == nullptr) throw Unsupported{"model " + model};
    if (c.text("method") == "LORA_CONVERT") return replay_conversion<T, peft::DenseLinear<T>>(c, *stages);
    if (model == "mlp_conv1d") return replay_peft<T, peft::TransposedLinear<T>>(c, *stages);
    const std::string start = start_of(c.directory() + "/adapter");
    if (taken_from_base(start)) return replay_from_base<T, peft::DenseLinear<T>>(c, *stages, start);
    return replay_peft<T, peft::DenseLinear<T>>(c, *stages);
}

inline std::string scientific(double value) {
    char buffer[32];
    std::snprintf(buffer, sizeof buffer, "%.1e", value);
    return buffer;
}

template <class T> Result replay(const std::string& directory) {
    const std::string name = std::filesystem::path(directory).filename().string();
    std::string method = "?";
    try {
        Case<T> c(directory);
        if (!c.text("method").empty()) method = c.text("method");
        std::replace(method.begin(), method.end(), ' ', '_');
        Outcome outcome;
        try {
            outcome = dispatch(c);
        } catch (const Unsupported& reason) {
            return {Result::Verdict::unsupported, "unsupported " + name + " " + method + " y=- dx=- grads=- merged=- resave=- checked=0/" + std::to_string(c.comparable()) + " (" + reason.reason + ")"};
        } catch (const peft::UnsupportedError& error) {
            return {Result::Verdict::unsupported, "unsupported " + name + " " + method + " y=- dx=- grads=- merged=- resave=- checked=0/" + std::to_string(c.comparable()) + " (" + error.what() + ")"};
        }
        const auto column = [&](Column which) {
            const ColumnResult& result = c.column(which);
            return result.present == 0 ? std::string("-") : result.compared == 0 ? std::string("missing") : scientific(result.error);
        };
        const bool resaved = outcome.resave == "same" || outcome.resave == "-";
        const bool ok = c.within() && c.compared() == c.comparable() && outcome.fault.empty() && resaved;
        std::string line = std::string(ok ? "ok " : "FAIL ") + name + " " + method + " y=" + column(Column::y) + " dx=" + column(Column::dx) + " grads=" + column(Column::grads) +
                           " merged=" + column(Column::merged) + " resave=" + outcome.resave + " checked=" + std::to_string(c.compared()) + "/" + std::to_string(c.comparable());
        if (!outcome.fault.empty()) line += " (" + outcome.fault + ")";
        for (const std::string& missed : c.missed()) line += " missed:" + missed;
        return {ok ? Result::Verdict::ok : Result::Verdict::fail, line};
    } catch (const std::exception& error) {
        return {Result::Verdict::fail, "FAIL " + name + " " + method + " y=- dx=- grads=- merged=- resave=- checked=0/0 (" + error.what() + ")"};
    }
}

}  // namespace golden
