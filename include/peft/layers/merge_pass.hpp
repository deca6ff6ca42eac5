#pragma once
#include <peft/core/concepts.hpp>
#include <peft/core/float_environment.hpp>
#include <peft/core/threads.hpp>
#include <peft/kernels/channel.hpp>
#include <peft/kernels/checksum.hpp>
#include <peft/kernels/elementwise.hpp>
#include <peft/layers/merge_record.hpp>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstring>
#include <exception>
#include <string>
#include <utility>

PEFT_ISA_DETAIL_BEGIN

template <class L> struct stored_of { using type = linear_value_t<L>; };
template <class L> requires requires { typename L::storage_type; } struct stored_of<L> { using type = typename L::storage_type; };
/// What the weights of a base are stored in; the compute type if it does not say.
template <class L> using stored_t = typename stored_of<L>::type;

template <class L, class S> void read_stored_rows(const L& base, std::size_t first, MatrixView<S> rows) {
    if constexpr (requires { base.read_stored(first, rows); }) base.read_stored(first, rows);
    else linear_access<L>::read_rows(base, first, rows);
}
template <class L, class S> void write_stored_rows(L& base, std::size_t first, MatrixView<const S> rows) {
    if constexpr (requires { base.write_stored(first, rows); }) base.write_stored(first, rows);
    else linear_access<L>::write_rows(base, first, rows);
}
/// True if the numbers of the bias can be written through bias().
template <class L> constexpr bool writable_bias_v = requires(L& l) { l.bias()[0] = linear_value_t<L>(0); };
template <class L> std::uint64_t merge_token_of(const L& base) {
    if constexpr (requires { base.merge_token(); }) return base.merge_token();
    else return 0;
}
template <class L> void set_merge_token_of(L& base, std::uint64_t token) {
    if constexpr (requires { base.set_merge_token(token); }) base.set_merge_token(token);
}

template <StorageScalar S> std::uint64_t checksum_rows(MatrixView<const S> rows) noexcept {
    std::uint64_t sum = 0;
    for (std::size_t i = 0; i < rows.rows(); ++i) sum = checksum(rows.row(i), rows.cols() * sizeof(S), sum);
    return sum;
}

/// About 64 Ki weights: the buffers of a block stay in cache. Depends on the shape alone, so results do not depend on threads.
inline std::size_t merge_block_rows(LayerShape shape) noexcept {
    const std::size_t rows = std::size_t{65536} / std::max<std::size_t>(shape.in, 1);
    return std::clamp<std::size_t>(rows, 8, 256);
}

enum class Fault : int { none, base_not_finite, result_not_finite, thrown, changed };

/// The buffers of one block of a merge or unmerge.
template <Scalar T, StorageScalar S> struct MergeBuffers {
    MatrixView<S> original;
    MatrixView<S> stored;
    MatrixView<T> work;
    MatrixView<T> rows;

    MergeBuffers(ArenaScope& scope, std::size_t count, std::size_t in)
        : original(scope.matrix<S>(count, in)), stored(scope.matrix<S>(count, in)), work(scope.matrix<T>(count, in)), rows(scope.matrix<T>(count, in)) {}
};

template <Scalar T, StorageScalar S> void widen_rows(MatrixView<const S> from, MatrixView<T> to) {
    for (std::size_t i = 0; i < from.rows(); ++i) {
        if constexpr (std::is_same_v<T, S>) std::memcpy(to.row(i), from.row(i), from.cols() * sizeof(T));
        else widen(from.row_span(i), to.row_span(i));
    }
}
template <Scalar T, StorageScalar S> void round_row(std::span<const T> from, std::span<S> to) {
    if constexpr (std::is_same_v<T, S>) std::memcpy(to.data(), from.data(), from.size() * sizeof(T));
    else round_to_storage(from, to);
}

/// Rounding of one row: what the report says.
template <Scalar T, StorageScalar S> struct RowStatistics {
    double error = 0;
    double change = 0;
    std::size_t changing = 0;
    std::size_t unmoved = 0;

    void add(bool additive, std::span<const S> before, std::span<const T> work, std::span<const T> target, std::span<const S> after) noexcept {
        for (std::size_t j = 0; j < before.size(); ++j) {
            const auto w = static_cast<double>(widen(before[j]));
            const double exact = additive ? w + static_cast<double>(work[j]) : static_cast<double>(target[j]);
            const double d = exact - w;
            const double e = static_cast<double>(widen(after[j])) - exact;
            error += e * e;
            change += d * d;
            changing += d != 0 ? 1 : 0;
            unmoved += d != 0 && std::bit_cast<bits_t<S>>(before[j]) == std::bit_cast<bits_t<S>>(after[j]) ? 1 : 0;
        }
    }
};

/// One merge in progress: makes W' block by block and can take back what is done.
template <class L> class Merging {
public:
    using T = linear_value_t<L>;
    using S = stored_t<L>;

    Merging(L& base, MergeRecord<T>& record) : base_(base), record_(record), shape_(linear_access<L>::shape(base)) {
        record.block_rows = merge_block_rows(shape_);
        record.blocks.resize((shape_.out + record.block_rows - 1) / record.block_rows);
        statistics_.resize(record.blocks.size());
        faults_.resize(record.blocks.size(), Fault::none);
        errors_.resize(record.blocks.size());
        done_.resize(record.blocks.size(), 0);
    }

    void run() {
        const std::size_t blocks = record_.blocks.size();
        if (record_.mode == MergeMode::discard) {
            if (blocks != 0) pass(0, false);            // grows this thread's scratch: the writing pass must not fail
            parallel_for(blocks, true, [this](std::size_t b) { pass(b, false); });
            raise();
            for (std::size_t b = 0; b < blocks; ++b) pass(b, true);
        } else {
            if (blocks > 1 && threads() > 1) reserve_scratch(*record_.plan, record_.block_rows, shape_);
            parallel_for(blocks, true, [this](std::size_t b) { pass(b, true); });
        }
        raise();
        finish_report();
    }

    /// Takes once whatever scratch the calling thread needs to put blocks back, which must not fail: with several threads it
    /// may not have worked on any block itself.
    static void reserve_scratch(const MergePlan<T>& plan, std::size_t block_rows, LayerShape shape) {
        ArenaScope scope;
        MergeBuffers<T, S> m(scope, std::min(block_rows, shape.out), shape.in);
        plan.prepare(0, m.work);
        fill<T>(T(0), m.rows);
        plan.revert(0, m.work, m.rows);
    }

    /// Reads merged rows, gives them their old bytes; `write` false only checks that they are what the merge left.
    template <class Base> static Fault restore_block(Base& base, const MergeRecord<T>& record, std::size_t b, LayerShape shape, bool write) {
        const MergeBlock& block = record.blocks[b];
        if (block.kind == BlockKind::untouched) return Fault::none;
        const DefaultFloatEnvironment environment;
        const std::size_t first = b * record.block_rows;
        const std::size_t count = std::min(record.block_rows, shape.out - first);
        ArenaScope scope;
        MergeBuffers<T, S> m(scope, count, shape.in);
        read_stored_rows<Base, S>(base, first, m.stored);
        if (checksum_rows<S>(m.stored) != block.after) return Fault::changed;
        if (!write) return Fault::none;
        if (block.kind == BlockKind::copy) {
            if (shape.in != 0) std::memcpy(static_cast<void*>(m.original.data()), block.bytes.data(), block.bytes.size());
        } else {
            record.plan->prepare(first, m.work);
            widen_rows<T, S>(m.stored, m.rows);
            record.plan->revert(first, m.work, m.rows);
            const std::uint8_t* at = block.bytes.data() + (count + 3) / 4;
            for (std::size_t i = 0; i < count; ++i) {
                const auto kind = static_cast<RowKind>((block.bytes[i / 4] >> (2 * (i % 4))) & 3u);
                if (kind == RowKind::untouched) {
                    std::memcpy(static_cast<void*>(m.original.row(i)), m.stored.row(i), shape.in * sizeof(S));
                } else {
                    round_row<T, S>(m.rows.row_span(i), m.original.row_span(i));
                    at += decode_row<S>(kind, at, m.original.row_span(i));
                }
            }
        }
        if (checksum_rows<S>(m.original) != block.before) return Fault::changed;
        replace_rows<Base>(base, first, m.stored, m.original);
        return Fault::none;
    }

    /// The rows of a block as the merge made them, from the old ones: takes back an unmerge that could not be finished.
    static void remake_block(L& base, const MergeRecord<T>& record, std::size_t b, LayerShape shape) {
        const std::size_t first = b * record.block_rows;
        const std::size_t count = std::min(record.block_rows, shape.out - first);
        const DefaultFloatEnvironment environment;
        ArenaScope scope;
        MergeBuffers<T, S> m(scope, count, shape.in);
        make_rows(base, record, first, m);
        write_stored_rows<L, S>(base, first, m.stored);
    }

private:
    /// Writes rows; when the base throws in the middle, the old ones are put back.
    template <class Base> static void replace_rows(Base& base, std::size_t first, MatrixView<const S> old_rows, MatrixView<const S> new_rows) {
        try {
            write_stored_rows<Base, S>(base, first, new_rows);
        } catch (...) {
            write_stored_rows<Base, S>(base, first, old_rows);
            throw;
        }
    }

    /// Fills original, work, rows (W' unrounded) and stored (W' rounded; untouched rows as they were). Says what is wrong.
    static Fault make_rows(const L& base, const MergeRecord<T>& record, std::size_t first, MergeBuffers<T, S>& m) {
        const MergePlan<T>& plan = *record.plan;
        read_stored_rows<L, S>(base, first, m.original);
        plan.prepare(first, m.work);
        widen_rows<T, S>(m.original, m.rows);
        plan.apply(first, m.work, m.rows);
        for (std::size_t i = 0; i < m.rows.rows(); ++i) {
            if (!plan.touches(first, m.work, i)) {
                std::memcpy(static_cast<void*>(m.stored.row(i)), m.original.row(i), m.original.cols() * sizeof(S));
                continue;
            }
            if (!all_finite(std::span<const S>(m.original.row_span(i)))) return Fault::base_not_finite;
            round_row<T, S>(m.rows.row_span(i), m.stored.row_span(i));
            if (!all_finite(std::span<const S>(m.stored.row_span(i)))) return Fault::result_not_finite;
        }
        return Fault::none;
    }

    void pass(std::size_t b, bool write) noexcept {
        if (stop_.load(std::memory_order_relaxed)) return;
        try {
            faults_[b] = merge_block(b, write);
        } catch (...) {                                  // no memory, or a base that throws
            errors_[b] = std::current_exception();
            faults_[b] = Fault::thrown;
        }
        if (faults_[b] != Fault::none) stop_.store(true, std::memory_order_relaxed);
    }

    Fault merge_block(std::size_t b, bool write) {
        const std::size_t first = b * record_.block_rows;
        const std::size_t count = std::min(record_.block_rows, shape_.out - first);
        const MergePlan<T>& plan = *record_.plan;
        const DefaultFloatEnvironment environment;
        ArenaScope scope;
        MergeBuffers<T, S> m(scope, count, shape_.in);
        if (const Fault fault = make_rows(base_, record_, first, m); fault != Fault::none) return fault;
        if (!write) return Fault::none;

        MergeBlock block;
        RowStatistics<T, S> statistics;
        bool any = false;
        for (std::size_t i = 0; i < count; ++i) {
            if (!plan.touches(first, m.work, i)) continue;
            any = true;
            statistics.add(plan.additive(), m.original.row_span(i), m.work.row_span(i), m.rows.row_span(i), m.stored.row_span(i));
        }
        if (any) {
            block.before = checksum_rows<S>(m.original);
            block.after = checksum_rows<S>(m.stored);
            if (record_.mode == MergeMode::journal) write_journal(first, m, block);
            if (record_.mode == MergeMode::copy) copy_rows(m, block);
            if (record_.mode == MergeMode::discard) block.kind = BlockKind::copy;
            replace_rows<L>(base_, first, m.original, m.stored);
        }
        record_.blocks[b] = std::move(block);
        statistics_[b] = statistics;
        done_[b] = any ? 1 : 0;
        return Fault::none;
    }

    void write_journal(std::size_t first, MergeBuffers<T, S>& m, MergeBlock& block) const {
        const MergePlan<T>& plan = *record_.plan;
        const std::size_t count = m.rows.rows();
        block.kind = BlockKind::rows;
        block.bytes.assign((count + 3) / 4, 0);
        widen_rows<T, S>(m.stored, m.rows);
        plan.revert(first, m.work, m.rows);
        ArenaScope scope;
        const auto reverted = scope.template vector<S>(m.rows.cols());
        for (std::size_t i = 0; i < count; ++i) {
            if (!plan.touches(first, m.work, i)) continue;
            round_row<T, S>(m.rows.row_span(i), reverted);
            const auto kind = encode_row<S>(m.original.row_span(i), reverted, block.bytes);
            block.bytes[i / 4] = static_cast<std::uint8_t>(block.bytes[i / 4] | (static_cast<unsigned>(kind) << (2 * (i % 4))));
        }
        if (block.bytes.size() >= m.original.size() * sizeof(S)) copy_rows(m, block);
        else block.bytes.shrink_to_fit();
    }

    static void copy_rows(const MergeBuffers<T, S>& m, MergeBlock& block) {
        block.kind = BlockKind::copy;
        const auto* source = reinterpret_cast<const std::uint8_t*>(m.original.data());
        block.bytes.assign(source, source + m.original.size() * sizeof(S));
    }

    /// After a fault: gives all rows their old bytes and throws.
    void raise() {
        if (!stop_.load()) return;
        for (std::size_t b = 0; b < record_.blocks.size(); ++b) {
            if (done_[b] != 0 && record_.mode != MergeMode::discard) restore_block<L>(base_, record_, b, shape_, true);
        }
        const auto bad = std::find_if(faults_.begin(), faults_.end(), [](Fault fault) { return fault != Fault::none; });
        const Fault fault = *bad;
        const auto at = static_cast<std::size_t>(bad - faults_.begin());
        if (fault == Fault::thrown) std::rethrow_exception(errors_[at]);
        const std::size_t first = at * record_.block_rows;
        const std::string where = "merge: rows " + std::to_string(first) + " to " + std::to_string(std::min(first + record_.block_rows, shape_.out) - 1) + " of the weight";
        if (fault == Fault::base_not_finite) {
            throw NumericError("the base already holds NaN or infinity; nothing was changed", {.subject = where, .expected = "finite numbers"});
        }
        throw NumericError("the merged weight does not fit its storage type; nothing was changed", {.subject = where, .expected = "finite numbers", .found = "NaN or infinity"});
    }

    void finish_report() {
        MergeReport& report = record_.report;
        report.weights = shape_.in * shape_.out;
        double error = 0;
        double change = 0;
        for (std::size_t b = 0; b < statistics_.size(); ++b) {
            error += statistics_[b].error;
            change += statistics_[b].change;
            report.changing += statistics_[b].changing;
            report.unmoved += statistics_[b].unmoved;
            report.journal_bytes += record_.blocks[b].bytes.size();
        }
        report.relative_error = change == 0 ? 0.0 : std::sqrt(error / change);
    }

    L& base_;
    MergeRecord<T>& record_;
    LayerShape shape_;
    std::vector<RowStatistics<T, S>> statistics_;
    std::vector<Fault> faults_;
    std::vector<std::exception_ptr> errors_;
    std::vector<std::uint8_t> done_;
    std::atomic<bool> stop_{false};
};

PEFT_ISA_DETAIL_END
