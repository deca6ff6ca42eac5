#pragma once
#include <peft/layers/any_adapter.hpp>

#include <cstddef>
#include <span>
#include <utility>
#include <vector>

PEFT_ISA_BEGIN

/// One base with many adapters, and for each row of a batch its own: the base's product is shared, each adapter works on
/// its rows. Inference only. The base is referred to and must outlive this. What adapters derive from the base (DoRA's
/// norms) is made by add(), and again by prepare() after a merge into the base or an unmerge.
template <Linear Base> class PerRow {
public:
    using T = linear_value_t<Base>;
    /// The row goes through the base alone.
    static constexpr std::size_t base_only = static_cast<std::size_t>(-1);

    explicit PerRow(Base& base) : base_(&base) {}

    /// Takes an adapter in and returns the number rows choose it by. Throws ShapeError if it was made for another shape.
    std::size_t add(AnyAdapter<T> adapter, std::uint64_t stream = 0) {
        expect_shape("per_row: adapter", adapter.shape().out, adapter.shape().in, linear_access<Base>::shape(*base_).out, linear_access<Base>::shape(*base_).in);
        Entry entry{std::move(adapter), {}, stream, detail::merge_token_of(*base_)};
        entry.adapter.start(view(), stream);
        entry.adapter.derive(view(), entry.derived);
        entries_.push_back(std::move(entry));
        return entries_.size() - 1;
    }
    std::size_t size() const noexcept { return entries_.size(); }
    /// Brings derived values up to date after the base has changed.
    void prepare() {
        for (Entry& entry : entries_) {
            typename AnyAdapter<T>::Derived derived;
            entry.adapter.derive(view(), derived);
            entry.derived = std::move(derived);
            entry.token = detail::merge_token_of(*base_);
        }
    }

    /// Row i of y (n x out) is row i of x (n x in) through adapter which[i], or base_only.
    /// Throws ShapeError, OptionError when a number names no adapter, or StateError when the base was merged into, or
    /// unmerged, since the adapter was added or prepare() was called.
    void forward(MatrixView<const T> x, MatrixView<T> y, std::span<const std::size_t> which) const {
        const LayerShape shape = linear_access<Base>::shape(*base_);
        expect_columns("per_row: x", x.cols(), shape.in, "in");
        expect_shape("per_row: y", y.rows(), y.cols(), x.rows(), shape.out);
        expect_shape("per_row: which", which.size(), 1, x.rows(), 1);
        for (std::size_t i = 0; i < which.size(); ++i) {
            if (which[i] == base_only || which[i] < entries_.size()) continue;
            throw OptionError("no such adapter", {.subject = "per_row: row " + std::to_string(i), .expected = "a number below " + std::to_string(entries_.size()), .found = std::to_string(which[i])});
        }
        for (const Entry& entry : entries_) {
            if (entry.token != detail::merge_token_of(*base_)) {
                throw StateError("another layer merged into the base, or unmerged, since the last prepare(); call prepare()", {.subject = "per_row"});
            }
        }
        ArenaScope keep(thread_keep_arena());
        const auto groups = keep.template vector<Group>(entries_.size());
        MatrixView<const T> z = x;
        for (std::size_t k = 0; k < entries_.size(); ++k) {
            groups[k] = make_group(x, which, k, keep);
            if (groups[k].rows.empty() || !entries_[k].adapter.adapts_input()) continue;
            if (z.data() == x.data()) {
                const auto changed = keep.template matrix<T>(x.rows(), x.cols());
                copy<T>(x, changed);
                z = changed;
            }
            const auto result = keep.template matrix<T>(groups[k].x.rows(), x.cols());   // kept: the cache may view it
            entries_[k].adapter.adapt_input(call(k, groups[k], keep.arena()), groups[k].x, result);
            const MatrixView<T> target(const_cast<T*>(z.data()), z.rows(), z.cols(), z.stride());   // our copy, see above
            for (std::size_t i = 0; i < groups[k].rows.size(); ++i) copy<T>(std::span<const T>(result.row_span(i)), target.row_span(groups[k].rows[i]));
        }
        linear_access<Base>::forward(*base_, z, y);
        for (std::size_t k = 0; k < entries_.size(); ++k) {
            Group& group = groups[k];
            if (group.rows.empty() || !entries_[k].adapter.adapts_output()) continue;
            if (group.consecutive()) {
                entries_[k].adapter.adapt_output(call(k, group, keep.arena()), group.x, y.rows(group.rows.front(), group.rows.size()));
                continue;
            }
            ArenaScope scope;
            const auto result = scope.template matrix<T>(group.rows.size(), y.cols());
            for (std::size_t i = 0; i < group.rows.size(); ++i) copy<T>(std::span<const T>(y.row_span(group.rows[i])), result.row_span(i));
            entries_[k].adapter.adapt_output(call(k, group, keep.arena()), group.x, result);
            for (std::size_t i = 0; i < group.rows.size(); ++i) copy<T>(std::span<const T>(result.row_span(i)), y.row_span(group.rows[i]));
        }
    }

private:
    struct Entry {
        AnyAdapter<T> adapter;
        typename AnyAdapter<T>::Derived derived;
        std::uint64_t stream;
        std::uint64_t token;   ///< of the base that `derived` was made from
    };

    BaseView<T> view() const noexcept { return detail::base_view(*base_); }

    /// The rows of a batch that one adapter serves.
    struct Group {
        std::span<const std::size_t> rows;
        MatrixView<const T> x;                      ///< those rows of the input
        typename AnyAdapter<T>::Cache cache;

        bool consecutive() const noexcept { return rows.back() - rows.front() + 1 == rows.size(); }
    };

    static Group make_group(MatrixView<const T> x, std::span<const std::size_t> which, std::size_t k, ArenaScope& keep) {
        std::size_t count = 0;
        for (const std::size_t choice : which) count += choice == k ? 1 : 0;
        const auto rows = keep.template vector<std::size_t>(count);
        count = 0;
        for (std::size_t i = 0; i < which.size(); ++i) {
            if (which[i] == k) rows[count++] = i;
        }
        Group group{rows, {}, {}};
        if (rows.empty()) return group;
        if (group.consecutive()) {
            group.x = x.rows(rows.front(), rows.size());
            return group;
        }
        const auto gathered = keep.template matrix<T>(rows.size(), x.cols());
        for (std::size_t i = 0; i < rows.size(); ++i) copy<T>(x.row_span(rows[i]), gathered.row_span(i));
        group.x = gathered;
        return group;
    }

    Call<AnyAdapter<T>> call(std::size_t k, Group& group, Arena& keep) const {
        const Entry& entry = entries_[k];
        return {view(), thread_arena(), keep, group.cache, entry.derived, entry.stream, 0, false};
    }

    Base* base_;
    std::vector<Entry> entries_;
};

PEFT_ISA_END
