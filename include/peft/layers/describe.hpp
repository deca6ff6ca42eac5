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

template <class Options, class Member> DescribedField describe_field(const ConfigField<Options, Member>& field, const Options& options) {
    const Member& value = options.*field.option;
    return {std::string(field.key), Value(value), field.scope};
}
template <class Options> DescribedField describe_field(const ComputedField<Options>& field, const Options& options) {
    return {std::string(field.key), field.write(options), Scope::model};
}
template <class Options> DescribedField describe_field(const FixedField& field, const Options&) { return {std::string(field.key), Value(field.value), Scope::model}; }

template <HasFormat M> Description<typename M::value_type> describe(M& method) {
    using T = typename M::value_type;
    Description<T> description;
    description.peft_type = std::string(hf_format<M>::peft_type);
    if constexpr (requires { method.options().seed; }) description.seed = method.options().seed;
    std::apply([&](const auto&... field) { (..., description.fields.push_back(describe_field(field, method.options()))); }, hf_format<M>::fields);
    M::each_tensor(method, [&]<class P>(std::string_view name, P& tensor, Role role, TensorShape shape = {}) {
        DescribedTensor<T> described;
        const TensorKey& key = key_of(hf_format<M>::keys, name);
        described.key = std::string(key.key);
        described.of_model = key.of_model;
        described.shape = shape.rank == 0 ? TensorShape::of(tensor.rows(), tensor.cols()) : shape;
        described.role = role;
        if constexpr (std::is_same_v<typename P::value_type, T>) described.values = tensor.state();
        else described.indices = tensor.state();
        description.tensors.push_back(std::move(described));
    });
    return description;
}

}  // namespace detail

PEFT_END
