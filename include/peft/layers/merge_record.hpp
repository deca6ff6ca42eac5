#pragma once
#include <peft/core/plan.hpp>
#include <peft/layers/journal.hpp>

#include <cstddef>
#include <cstdint>
#include <vector>

PEFT_BEGIN

/// How unmerge gets the old weights back.
enum class MergeMode {
    journal,   ///< from the merged weights, the plan and a journal of rounding differences: at most a copy, usually 1/8 of one or less
    copy,      ///< from a copy of every touched row: faster, and as large as the weight
    discard,   ///< not at all; a base whose own write_rows throws half way is left half merged
};

/// What a merge did. Errors and shares are over all weights whose change is not zero.
struct MergeReport {
    std::size_t weights = 0;         ///< weights in the layer
    std::size_t changing = 0;        ///< weights whose change is not zero
    std::size_t unmoved = 0;         ///< of those, weights that rounding left as they were
    double relative_error = 0;       ///< rms(stored result - exact result) / rms(change)
    std::size_t journal_bytes = 0;   ///< kept for unmerge

    /// Share of the changing weights on which the merge had no effect.
    double unmoved_share() const noexcept { return changing == 0 ? 0.0 : static_cast<double>(unmoved) / static_cast<double>(changing); }
    double journal_bits_per_weight() const noexcept { return weights == 0 ? 0.0 : 8.0 * static_cast<double>(journal_bytes) / static_cast<double>(weights); }
};

/// All that unmerge needs. Holds no reference to the base; may be kept and handed on, also to units with other flags.
template <Scalar T> struct MergeRecord {
    PlanPointer<T> plan;
    MergeMode mode = MergeMode::journal;
    std::size_t block_rows = 0;
    std::vector<MergeBlock> blocks;
    Matrix<T> old_bias;
    Matrix<T> new_bias;
    bool bias_changed = false;
    bool bias_created = false;
    std::uint64_t token = 0;            ///< left with the base
    std::uint64_t previous_token = 0;   ///< what it replaced
    MergeReport report;
};

PEFT_END
