#pragma once
#include <peft/optim/optimizer.hpp>

#include <string_view>
#include <utility>

PEFT_BEGIN

struct LoRAPlusOptions {
    double ratio = 16;               ///< of B's learning rate to A's
    double embedding_ratio = 1e-3;   ///< of an embedding's to A's; the official code has 1e-6 itself, this at a rate of 1e-3
};

PEFT_END

PEFT_ISA_DETAIL_BEGIN

inline bool contains(std::string_view text, std::string_view part) noexcept { return text.find(part) != std::string_view::npos; }

/// The module that a LoRA tensor belongs to: what stands before "lora_".
inline std::string_view module_before_lora(std::string_view name) noexcept { return name.substr(0, name.find("lora_")); }

PEFT_ISA_DETAIL_END

PEFT_ISA_BEGIN

/// LoRA+: groups for AdamW or SGD in which the B side learns `ratio` times as fast as A, lr_B = ratio * lr_A. The groups that
/// are not empty, in the order A, embedding, B, B without decay:
///   embedding       lora_embedding_A and _B, and the magnitude beside them; rate embedding_ratio * lr
///   B               lora_B and every other vector (magnitudes, biases, norms); rate ratio * lr
///   without decay   those of B that are a bias, or the weight of a norm; weight decay 0
/// Vectors are told by ParameterRef::vector, the rest by name. One deviation from the official code: it leaves the
/// DoRA magnitude of an embedding in B, at 16,000 times the rate of the tensors it scales (ratio 16, rates 1e-3 and 1e-6);
/// the paper has two rates for a layer of one kind, so here it stays with its layer.
/// Throws OptionError when a ratio is negative or not finite.
/// Source: Hayou et al. 2024, arXiv:2402.12354, section 4; rules of nikhil-ghosh-berkeley/loraplus, lora_plus.py.
template <Scalar T> ParameterGroups<T> lora_plus_groups(const ParameterList<T>& parameters, const LoRAPlusOptions& options = {}) {
    detail::expect_not_negative("lora_plus: ratio", options.ratio);
    detail::expect_not_negative("lora_plus: embedding_ratio", options.embedding_ratio);
    ParameterGroup<T> a{{}, {}};
    ParameterGroup<T> embedding{{}, {.learning_rate_factor = options.embedding_ratio}};
    ParameterGroup<T> b{{}, {.learning_rate_factor = options.ratio}};
    ParameterGroup<T> b_without_decay{{}, {.learning_rate_factor = options.ratio, .weight_decay = 0}};
    const auto of_embedding = [&](std::string_view name) {
        if (detail::contains(name, "lora_embedding_")) return true;
        if (!detail::contains(name, "lora_magnitude_vector")) return false;
        for (const ParameterRef<T>& other : parameters) {
            if (detail::contains(other.name, "lora_embedding_") && detail::module_before_lora(other.name) == detail::module_before_lora(name)) return true;
        }
        return false;
    };
    for (const ParameterRef<T>& parameter : parameters) {
        const std::string_view name = parameter.name;
        const bool norm = parameter.vector && name.ends_with("weight") && !detail::contains(name, "lora_");
        if (of_embedding(name)) embedding.parameters.push_back(parameter);
        else if (!detail::contains(name, "lora_B") && !parameter.vector) a.parameters.push_back(parameter);
        else if (norm || detail::contains(name, "bias")) b_without_decay.parameters.push_back(parameter);
        else b.parameters.push_back(parameter);
    }
    ParameterGroups<T> groups;
    for (ParameterGroup<T>* group : {&a, &embedding, &b, &b_without_decay}) {
        if (!group->parameters.empty()) groups.push_back(std::move(*group));
    }
    return groups;
}

PEFT_ISA_END
