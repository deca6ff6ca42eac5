#pragma once
#include <peft/core/concepts.hpp>
#include <peft/core/threads.hpp>
#include <peft/kernels/elementwise.hpp>
#include <peft/layers/merge_pass.hpp>

#include <atomic>
#include <exception>
#include <utility>

PEFT_ISA_BEGIN

/// Writes the plan's change into the weight and bias of the base. Either all of it happens, or an exception leaves every
/// byte as it was:
///   ShapeError     the plan is for another shape;
///   NumericError   a tensor of the plan, a touched row of the base, or the result is not finite;
///   StateError     the plan changes the bias, and the base cannot write or create one;
///   bad_alloc, or whatever the base's own functions throw.
/// Rows the plan does not touch are not read. The result does not depend on the number of threads.
template <WritableLinear L> MergeRecord<linear_value_t<L>> merge_into(L& base, PlanPointer<linear_value_t<L>> plan, MergeMode mode = MergeMode::journal) {
    using T = linear_value_t<L>;
    const LayerShape shape = linear_access<L>::shape(base);
    expect_shape("merge: plan", plan->shape().out, plan->shape().in, shape.out, shape.in);
    if (const char* name = plan->non_finite()) {
        throw NumericError("the adapter holds NaN or infinity; nothing was changed", {.subject = std::string("merge: ") + name, .expected = "finite numbers"});
    }
    MergeRecord<T> record;
    record.plan = std::move(plan);
    record.mode = mode;
    record.previous_token = detail::merge_token_of(base);

    const BiasChange change = record.plan->bias_change();
    const std::span<const T> old_bias = linear_access<L>::bias(base);
    record.bias_changed = change == BiasChange::adds || (change == BiasChange::scales && !old_bias.empty());
    if (record.bias_changed) {
        if constexpr (!detail::writable_bias_v<L>) throw StateError("the method changes the bias, and the bias of this base cannot be written", {.subject = "merge: bias"});
        record.old_bias = Matrix<T>(MatrixView<const T>(old_bias.data(), old_bias.empty() ? 0 : 1, old_bias.size()));
        record.new_bias = old_bias.empty() ? Matrix<T>(1, shape.out) : record.old_bias;
        record.plan->apply_bias(record.new_bias.flat());
        if (!all_finite(std::as_const(record.new_bias).flat())) {
            throw NumericError("the merged bias is not finite; nothing was changed", {.subject = "merge: bias", .expected = "finite numbers", .found = "NaN or infinity"});
        }
        if (old_bias.empty()) {
            if constexpr (requires { base.ensure_bias(); base.drop_bias(); }) {
                base.ensure_bias();
                record.bias_created = true;
            } else {
                throw StateError("the method adds a bias, and this base has none and cannot create one", {.subject = "merge: bias"});
            }
        }
    }
    try {
        detail::Merging<L>(base, record).run();
    } catch (...) {
        if constexpr (requires { base.drop_bias(); }) {
            if (record.bias_created) base.drop_bias();
        }
        throw;
    }
    if (record.bias_changed) {
        if constexpr (detail::writable_bias_v<L>) copy<T>(std::as_const(record.new_bias).flat(), std::span<T>(base.bias()));
    }
    std::uint64_t token = record.previous_token + 1;
    for (const MergeBlock& block : record.blocks) token = detail::mix64(token ^ block.after) + 1;
    record.token = token;
    detail::set_merge_token_of(base, token);
    return record;
}

/// Gives the base the bytes it had before the merge and empties the record. Throws StateError, with nothing changed, when
/// the merge discarded the old weights, when another merge lies above it, or when somebody else has written to the base.
template <WritableLinear L> void unmerge_from(L& base, MergeRecord<linear_value_t<L>>& record) {
    using T = linear_value_t<L>;
    using Merging = detail::Merging<L>;
    if (record.plan == nullptr) throw StateError("nothing is merged", {.subject = "unmerge"});
    if (record.mode == MergeMode::discard) throw StateError("the merge discarded the old weights", {.subject = "unmerge", .expected = "MergeMode::journal or copy"});
    if (detail::merge_token_of(base) != record.token && detail::merge_token_of(base) != 0) {
        throw StateError("another merge into this base came later; take that one back first", {.subject = "unmerge"});
    }
    if (detail::merge_token_of(base) != record.token) {
        if constexpr (requires { base.merge_token(); }) throw StateError("this base does not know of the merge", {.subject = "unmerge"});
    }
    const LayerShape shape = linear_access<L>::shape(base);
    constexpr const char* changed_text = "the base has been written to since the merge; nothing was changed";
    if (record.bias_changed) {
        const std::span<const T> bias = linear_access<L>::bias(base);
        if (bias.size() != shape.out || std::memcmp(bias.data(), record.new_bias.data(), bias.size() * sizeof(T)) != 0) {
            throw StateError(changed_text, {.subject = "unmerge: bias"});
        }
    }
    // Nothing below allocates once the scratch is there: a merge of several layers undoes itself where memory has run out.
    const std::size_t blocks = record.blocks.size();
    std::atomic<bool> changed{false};
    for (MergeBlock& block : record.blocks) block.progress = UnmergeProgress::none;
    const auto restore = [&](std::size_t b, bool write) {
        if (changed.load()) return;
        if (Merging::restore_block(base, record, b, shape, write) != detail::Fault::none) changed.store(true);
        else if (write) record.blocks[b].progress = UnmergeProgress::restored;
    };
    const auto run = [&](bool write) {
        parallel_for(blocks, true, [&](std::size_t b) {
            try {
                restore(b, write);
            } catch (...) {
                record.blocks[b].progress = UnmergeProgress::failed;
            }
        });
        for (std::size_t b = 0; b < blocks; ++b) {   // what another thread had no memory for: this one has
            if (record.blocks[b].progress == UnmergeProgress::failed) restore(b, write);
        }
    };
    std::exception_ptr error;
    try {
        if (blocks > 1 && threads() > 1) Merging::reserve_scratch(*record.plan, record.block_rows, shape);
        run(false);
        for (MergeBlock& block : record.blocks) block.progress = UnmergeProgress::none;
        if (!changed.load()) run(true);
    } catch (...) {
        error = std::current_exception();
    }
    if (error != nullptr || changed.load()) {
        for (std::size_t b = 0; b < blocks; ++b) {
            const MergeBlock& block = record.blocks[b];
            if (block.progress == UnmergeProgress::restored && block.kind != BlockKind::untouched) Merging::remake_block(base, record, b, shape);
        }
        if (error != nullptr) std::rethrow_exception(error);
        throw StateError(changed_text, {.subject = "unmerge: weight"});
    }
    if (record.bias_changed) {
        if constexpr (requires { base.drop_bias(); }) {
            if (record.bias_created) base.drop_bias();
        }
        if constexpr (detail::writable_bias_v<L>) {
            if (!record.bias_created) copy<T>(std::as_const(record.old_bias).flat(), std::span<T>(base.bias()));
        }
    }
    detail::set_merge_token_of(base, record.previous_token);
    record = {};
}

/// Rows `first` .. of W' without touching the base: what merged_copy and read_rows of an adapted layer are made of.
template <ReadableLinear L>
void planned_rows(const L& base, const MergePlan<linear_value_t<L>>& plan, std::size_t first, MatrixView<linear_value_t<L>> rows) {
    using T = linear_value_t<L>;
    linear_access<L>::read_rows(base, first, rows);
    const DefaultFloatEnvironment environment;
    ArenaScope scope;
    const auto work = scope.matrix<T>(rows.rows(), rows.cols());
    const auto changed = scope.matrix<T>(rows.rows(), rows.cols());
    plan.prepare(first, work);
    copy<T>(rows, changed);
    plan.apply(first, work, changed);
    for (std::size_t i = 0; i < rows.rows(); ++i) {
        if (plan.touches(first, work, i)) copy<T>(std::span<const T>(changed.row_span(i)), rows.row_span(i));
    }
}

PEFT_ISA_END
