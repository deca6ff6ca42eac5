#pragma once
#include <peft/layers/any_adapter.hpp>
#include <peft/layers/chain.hpp>

#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

PEFT_BEGIN

/// What a bank knows of one module.
template <Scalar T> struct BankEntry {
    std::string module;
    std::vector<Description<T>> parts;   ///< the method, and a trained layer or bias beside it
};

PEFT_END

PEFT_ISA_BEGIN

/// The adapters of a model by module name, to be saved. It shares the numbers with the layers, so what is saved is what
/// they hold then; options are taken when a layer is added. `config` is the adapter configuration to start from (what was
/// loaded, or nothing): fields that options stand for are written over, everything else is kept.
template <Scalar T> class Bank {
public:
    explicit Bank(Value config = Value()) : config_(std::move(config)) {}

    /// Throws OptionError when the module is there already, StateError when the method has no file format.
    template <class Base, class Method> void add(std::string_view module, Adapted<Base, Method>& layer) {
        BankEntry<T> entry{std::string(module), {}};
        append_layer(layer, entry.parts);
        add(std::move(entry));
    }
    /// The same for a method without a layer.
    void add(std::string_view module, AnyAdapter<T>& method) {
        BankEntry<T> entry{std::string(module), {}};
        append(method, entry.parts);
        add(std::move(entry));
    }

    const Value& config() const noexcept { return config_; }
    const std::vector<BankEntry<T>>& entries() const noexcept { return entries_; }

private:
    /// The parts of nested layers come first.
    template <class Base, class Method> static void append_layer(Adapted<Base, Method>& layer, std::vector<Description<T>>& parts) {
        if constexpr (detail::is_adapted_v<typename Adapted<Base, Method>::BaseType>) append_layer(layer.base(), parts);
        if constexpr (std::is_same_v<Method, AnyAdapter<T>>) append(layer.method(), parts);
        else if constexpr (std::is_same_v<Method, Chain<T>>) append(layer.method().parts(), parts);
        else parts.push_back(detail::describe(layer.method()));
    }
    static void append(std::span<AnyAdapter<T>> methods, std::vector<Description<T>>& parts) {
        for (AnyAdapter<T>& method : methods) append(method, parts);
    }
    static void append(AnyAdapter<T>& method, std::vector<Description<T>>& parts) {
        if (auto* chain = method.template get_if<Chain<T>>()) {
            append(chain->parts(), parts);
        } else {
            parts.push_back(method.describe());
        }
    }
    void add(BankEntry<T> entry) {
        for (const BankEntry<T>& other : entries_) {
            if (other.module == entry.module) throw OptionError("the bank has this module already", {.subject = entry.module});
        }
        entries_.push_back(std::move(entry));
    }

    Value config_;
    std::vector<BankEntry<T>> entries_;
};

PEFT_ISA_END
