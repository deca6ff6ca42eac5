#pragma once
#include <peft/core/concepts.hpp>
#include <peft/core/hf_format.hpp>

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <tuple>
#include <type_traits>
#include <vector>

PEFT_BEGIN

/// A tensor of a method as files hold it. Shares the numbers with the layer: later training is seen.
template <Scalar T> struct DescribedTensor {
    std::string key;      ///< after "<module>.", or the whole name
    bool of_model = false;
    TensorShape shape;    ///< on disk, never of rank 0
    Role role = Role::trained;
    std::shared_ptr<typename Parameter<T>::State> values;                 ///< numbers, or
    std::shared_ptr<typename Parameter<std::int32_t>::State> indices;     ///< positions
};

/// An option of a method as a configuration field.
struct DescribedField {
    std::string key;
    Value value;
    Scope scope = Scope::model;
};

/// What a file says of one method on one layer.
template <Scalar T> struct Description {
    std::string peft_type;
    std::uint64_t seed = 0;   ///< of its random numbers, 0 if it draws none; no field of a configuration
    std::vector<DescribedField> fields;
    std::vector<DescribedTensor<T>> tensors;
};

/// The type string of Trained: part of another method's file (modules_to_save, bias), or full fine-tuning alone.
inline constexpr std::string_view full_peft_type = "X_FULL";

namespace detail {

template <class M> concept HasFormat = requires { hf_format<M>::peft_type; };

inline const TensorKey& key_of(std::span<const TensorKey> keys, std::string_view tensor) {
    for (const TensorKey& key : keys) {
        if (key.tensor == tensor) return key;
    }
    throw StateError("the format table of the method lacks this tensor", {.subject = std::string(tensor)});
}

// What follows depends on the method as little as it can: it is compiled once for all of them.

PEFT_NOINLINE inline void append_field(std::vector<DescribedField>& fields, std::string_view key, Value value, Scope scope) {
    fields.push_back({std::string(key), std::move(value), scope});
}
template <class Options, class Member> void describe_field(const ConfigField<Options, Member>& field, const Options& options, std::vector<DescribedField>& fields) {
    append_field(fields, field.key, Value(options.*field.option), field.scope);
}
template <class Options> void describe_field(const ComputedField<Options>& field, const Options& options, std::vector<DescribedField>& fields) {
    append_field(fields, field.key, field.write(options), Scope::model);
}
template <class Options> void describe_field(const FixedField& field, const Options&, std::vector<DescribedField>& fields) {
    append_field(fields, field.key, Value(field.value), Scope::model);
}

template <Scalar T, class V>
PEFT_NOINLINE void append_tensor(std::vector<DescribedTensor<T>>& tensors, std::span<const TensorKey> keys, std::string_view name, Parameter<V>& tensor, Role role, TensorShape shape) {
    DescribedTensor<T> described;
    const TensorKey& key = key_of(keys, name);
    described.key = std::string(key.key);
    described.of_model = key.of_model;
    described.shape = shape.rank == 0 ? TensorShape::of(tensor.rows(), tensor.cols()) : shape;
    described.role = role;
    if constexpr (std::is_same_v<V, T>) described.values = tensor.state();
    else described.indices = tensor.state();
    tensors.push_back(std::move(described));
}

template <HasFormat M> Description<typename M::value_type> describe(M& method) {
    using T = typename M::value_type;
    Description<T> description;
    description.peft_type = std::string(hf_format<M>::peft_type);
    if constexpr (requires { method.options().seed; }) description.seed = method.options().seed;
    std::apply([&](const auto&... field) { (..., describe_field(field, method.options(), description.fields)); }, hf_format<M>::fields);
    M::each_tensor(method, [&](std::string_view name, auto& tensor, Role role, TensorShape shape = {}) {
        append_tensor<T>(description.tensors, hf_format<M>::keys, name, tensor, role, shape);
    });
    return description;
}

}  // namespace detail

PEFT_END
