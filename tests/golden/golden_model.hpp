#pragma once
// Networks of adapted Linears with activations between them: forward and backward by the library's own calls, and the
// comparison of everything a case holds about them.
#include "golden_case.hpp"

#include "support/temporary_directory.hpp"

#include <peft/io/load.hpp>
#include <peft/io/save.hpp>
#include <peft/layers/per_row.hpp>
#include <peft/linear/dense.hpp>

#include <cmath>
#include <cstring>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace golden {

enum class Activation { none, tanh, gelu };

inline double activate(Activation a, double x) {
    if (a == Activation::tanh) return std::tanh(x);
    if (a == Activation::gelu) return 0.5 * x * (1 + std::erf(x / std::sqrt(2.0)));
    return x;
}
inline double slope(Activation a, double x) {
    if (a == Activation::tanh) return 1 - std::tanh(x) * std::tanh(x);
    if (a == Activation::gelu) return 0.5 * (1 + std::erf(x / std::sqrt(2.0))) + x * std::exp(-x * x / 2) / std::sqrt(2 * 3.14159265358979323846);
    return 1;
}

/// One Linear of a network, its adapter if it has one, and the activation behind it.
template <class T, class Base> struct Module {
    using Layer = peft::Adapted<Base&, peft::AnyAdapter<T>>;
    std::string name;
    std::string key;      ///< of its tensors in the case: "fc1." or ""
    Base base;
    Activation after = Activation::none;
    std::unique_ptr<Layer> layer;
    std::unique_ptr<typename Layer::Tape> tape;
    peft::Matrix<T> in, out;

    void adapt(peft::AnyAdapter<T> method) {
        layer = std::make_unique<Layer>(peft::adapt(base, std::move(method), peft::stream_of(name)));
        tape = std::make_unique<typename Layer::Tape>(layer->make_tape());
    }
};

template <class T> peft::Matrix<T> apply(Activation a, const peft::Matrix<T>& x) {
    peft::Matrix<T> y(x.rows(), x.cols());
    for (std::size_t k = 0; k < x.size(); ++k) y.data()[k] = static_cast<T>(activate(a, static_cast<double>(x.data()[k])));
    return y;
}

template <class T, class Base> using Modules = std::vector<std::unique_ptr<Module<T, Base>>>;

/// The base layer of a module: the original weights where the case has them (training or wrapping changed the base), unless
/// the residual ones are asked for.
template <class T, class Base> Base read_base(const Case<T>& c, const std::string& key, bool residual = false) {
    const auto name = [&](const std::string& suffix) {
        const std::string end = key + suffix;
        if (residual) return (c.has("residual." + end) ? "residual." : "base.") + end;
        return (c.has("orig." + end) ? "orig." : "base.") + end;
    };
    peft::Matrix<T> weight = c.input(name("weight"));
    return c.has(name("bias")) ? Base(std::move(weight), c.input(name("bias"))) : Base(std::move(weight));
}

template <class T, class Base> std::unique_ptr<Module<T, Base>> make_module(const Case<T>& c, std::string name, const std::string& key, Activation after, bool residual = false) {
    return std::unique_ptr<Module<T, Base>>(new Module<T, Base>{std::move(name), key, read_base<T, Base>(c, key, residual), after, nullptr, nullptr, {}, {}});
}

/// y in inference.
template <class T, class Base> peft::Matrix<T> infer(const Modules<T, Base>& modules, peft::Matrix<T> x) {
    for (const auto& module : modules) {
        peft::Matrix<T> out(x.rows(), module->base.shape().out);
        if (module->layer != nullptr) module->layer->forward(x, out);
        else module->base.forward(x, out);
        x = apply(module->after, out);
    }
    return x;
}

/// Forward and backward with tapes: y, dx, the tensors between layers.
template <class T, class Base> void train(Case<T>& c, Modules<T, Base>& modules) {
    peft::Matrix<T> x = c.input("x");
    for (auto& module : modules) {
        module->in = x;
        module->out = peft::Matrix<T>(x.rows(), module->base.shape().out);
        if (module->layer != nullptr) module->layer->forward(module->in, module->out, *module->tape);
        else module->base.forward(module->in, module->out);
        c.compare("io." + module->name + ".in", module->in);
        c.compare("io." + module->name + ".out", module->out);
        x = apply(module->after, module->out);
    }
    if (!c.has("dy")) return;
    peft::Matrix<T> dy = c.input("dy");
    for (auto it = modules.rbegin(); it != modules.rend(); ++it) {
        auto& module = **it;
        for (std::size_t k = 0; k < dy.size(); ++k) dy.data()[k] = static_cast<T>(static_cast<double>(dy.data()[k]) * slope(module.after, static_cast<double>(module.out.data()[k])));
        peft::Matrix<T> dx(dy.rows(), module.base.shape().in);
        if (module.layer != nullptr) module.layer->backward(dy, dx, *module.tape);
        else module.base.backward_input(dy, dx);
        c.compare("io." + module.name + ".dout", dy);
        c.compare("io." + module.name + ".din", dx);
        dy = std::move(dx);
    }
    c.compare("dx", dy);
}

/// delta.*, merged.*, and that unmerge gives every byte back. Returns what is wrong, or nothing.
template <class T, class Base> std::string merge(Case<T>& c, Modules<T, Base>& modules, const peft::Matrix<T>& y) {
    std::string fault;
    std::vector<Base> before;
    for (auto& module : modules) before.push_back(module->base);
    for (auto& module : modules) {
        if (module->layer == nullptr) continue;
        if (c.has("delta." + module->name)) {
            const auto shape = module->base.shape();
            peft::Matrix<T> delta(shape.out, shape.in);
            module->layer->plan()->prepare(0, delta);
            peft::Matrix<T> stored(module->base.stored().rows(), module->base.stored().cols());
            for (std::size_t i = 0; i < shape.out; ++i) {
                for (std::size_t j = 0; j < shape.in; ++j) (module->base.weight().transposed ? stored(j, i) : stored(i, j)) = delta(i, j);
            }
            c.compare("delta." + module->name, stored);
        }
        module->layer->merge();
    }
    for (const auto& module : modules) {
        const std::string key = "merged." + module->key;
        c.compare(key + "weight", module->base.stored());
        c.compare(key + "bias", peft::MatrixView<const T>(std::as_const(module->base).bias().data(), 1, std::as_const(module->base).bias().size()));
    }
    const peft::Matrix<T> merged_y = infer<T, Base>(modules, c.input("x"));
    double error = 0, largest = 0;
    for (std::size_t k = 0; k < y.size(); ++k) {
        error = std::max(error, std::abs(static_cast<double>(y.data()[k]) - static_cast<double>(merged_y.data()[k])));
        largest = std::max(largest, std::abs(static_cast<double>(y.data()[k])));
    }
    if (!(error <= c.tolerance(Column::y) * largest)) fault = "merged forward differs from unmerged";
    for (auto& module : modules) {
        if (module->layer != nullptr) module->layer->unmerge();
    }
    for (std::size_t k = 0; k < modules.size(); ++k) {
        const auto& now = std::as_const(modules[k]->base);
        const Base& old = before[k];
        if (std::memcmp(now.stored().data(), old.stored().data(), old.stored().size() * sizeof(T)) != 0 || now.bias().size() != std::as_const(old).bias().size() ||
            (now.bias().size() != 0 && std::memcmp(now.bias().data(), std::as_const(old).bias().data(), now.bias().size() * sizeof(T)) != 0)) {
            fault = "unmerge did not restore the base";
        }
    }
    return fault;
}

inline peft::Value sorted_lists(const peft::Value& value) {
    if (!value.is_array()) return value;
    peft::Value::Array items = value.as_array();
    std::sort(items.begin(), items.end(), [](const peft::Value& a, const peft::Value& b) { return a.describe() < b.describe(); });
    return peft::Value(std::move(items));
}

/// Compares two adapter directories: configuration (lists of modules are sets upstream), keys, shapes, values.
inline std::string compare_directories(const std::string& a, const std::string& b) {
    const auto config = [](const std::string& d) { return peft::io::parse_json(peft::io::read_file(d + "/adapter_config.json", 1u << 24), d); };
    const peft::Value left = config(a), right = config(b);
    for (const auto* side : {&left, &right}) {
        for (const auto& member : side->as_object()) {
            const peft::Value* other = (side == &left ? right : left).find(member.key);
            if (other == nullptr || !(sorted_lists(*other) == sorted_lists(member.value))) return "config:" + member.key;
        }
    }
    const peft::io::SafetensorsFile first(a + "/adapter_model.safetensors"), second(b + "/adapter_model.safetensors");
    if (first.tensors().size() != second.tensors().size()) return "tensor-count";
    for (const auto& info : first.tensors()) {
        const auto* other = second.find(info.name);
        if (other == nullptr || other->shape != info.shape) return "tensor:" + info.name;
        bool same;
        if (info.dtype == other->dtype) {
            same = first.read_bytes(info.name) == second.read_bytes(info.name);
        } else {   // F32 of the case, F64 of a replay in double
            std::vector<double> x(info.byte_count() / peft::io::dtype_size(info.dtype)), y(x.size());
            first.read_values<double>(info, x);
            second.read_values<double>(*other, y);
            same = std::memcmp(x.data(), y.data(), x.size() * sizeof(double)) == 0;
        }
        if (!same) return "values:" + info.name;
    }
    return "";
}

}  // namespace golden
