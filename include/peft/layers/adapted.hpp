#pragma once
#include <peft/core/concepts.hpp>
#include <peft/core/diagnose.hpp>
#include <peft/core/matrix_access.hpp>
#include <peft/kernels/channel.hpp>
#include <peft/kernels/elementwise.hpp>
#include <peft/kernels/matmul.hpp>
#include <peft/layers/in_place.hpp>
#include <peft/layers/merge.hpp>
#include <peft/layers/method_traits.hpp>
#include <peft/linear/dense.hpp>

#include <memory>
#include <optional>
#include <utility>

PEFT_ISA_BEGIN

/// A base with a method on it: the one place that knows the order of forward, backward, merge and unmerge. Itself a
/// Linear, so it nests. Made by adapt().
///   const members may run on several threads at once; training needs one tape for each thread of control.
///   Gradients accumulate; y and the dx of backward are overwritten. The tape keeps a view of x until backward.
template <class Base, class Method> class Adapted {
    using Held = detail::Holder<Base>;

public:
    using BaseType = typename Held::type;
    using MethodType = Method;
    using value_type = typename Method::value_type;
    using T = value_type;
    static_assert(std::is_same_v<T, linear_value_t<BaseType>>, "peft: base and method compute in different types");
    static_assert(!(detail::reads_base_v<Method> && !ReadableLinear<BaseType>),
                  "peft: this method reads the weight of its base, and this base cannot be read (it has no read_rows)");
    static_assert(!(detail::reads_base_v<Method> && detail::is_adapted_v<BaseType>),
                  "peft: this method reads the weight of its base; over an adapted layer the gradient through that weight would be missed");

    /// What a training forward keeps for its backward. Made by make_tape(); one for each forward in flight.
    class Tape {
    public:
        Tape(Tape&&) noexcept = default;
        Tape& operator=(Tape&&) noexcept = default;
        /// Training forwards so far: the key of the next dropout mask.
        std::uint64_t step() const noexcept { return step_; }
        void set_step(std::uint64_t step) noexcept { step_ = step; }
        /// Keys its random numbers together with the step.
        std::uint64_t stream() const noexcept { return stream_; }
        /// Bytes held for caches.
        std::size_t capacity() const noexcept { return arena_.capacity(); }

    private:
        friend Adapted;
        explicit Tape(typename detail::tape_of<BaseType>::type base_tape) : base_tape_(std::move(base_tape)) {}

        Arena arena_;
        cache_t<Method> cache_{};
        MatrixView<const T> x_;
        MatrixView<const T> z_;
        typename detail::tape_of<BaseType>::type base_tape_;
        std::shared_ptr<const char> owner_;   // shared: a later layer cannot get the address; a tape moved from has none
        std::uint64_t stream_ = 0;
        std::uint64_t step_ = 0;
        bool ready_ = false;
    };

    Adapted(Held base, Method method, std::optional<std::uint64_t> stream)
        : base_(std::move(base)), method_(std::move(method)), stream_(stream ? *stream : default_stream(this->base())) {
        expect_same_layer("adapt", "the method was made for another layer", method_.shape(), shape());
        if (detail::reads_base(method_) && (detail::is_adapted_v<BaseType> || !view().readable())) {
            detail::refuse_state("adapt", "this method reads the weight of its base, and this base is not a plain readable layer");
        }
        if constexpr (requires(Method& m) { m.start(view(), stream_); }) method_.start(view(), stream_);
        rebase();
        try {
            refresh();
        } catch (...) {
            if constexpr (detail::Rebasable<Method> && WritableLinear<BaseType>) {
                if (rebase_ != nullptr) unmerge_from(this->base(), *rebase_);
                else if (in_place_ != nullptr) in_place_->restore(this->base());
            }
            throw;
        }
    }

    LayerShape shape() const { return linear_access<BaseType>::shape(base()); }
    std::span<const T> bias() const { return linear_access<BaseType>::bias(base()); }
    std::span<T> bias()
        requires requires(BaseType& b) { { b.bias() } -> std::same_as<std::span<T>>; }
    {
        return base().bias();
    }
    BaseType& base() noexcept { return base_.get(); }
    const BaseType& base() const noexcept { return base_.get(); }
    Method& method() noexcept { return method_; }
    const Method& method() const noexcept { return method_; }
    std::uint64_t stream() const noexcept { return stream_; }

    // --- inference

    /// y = the adapted map of x (n x in). Throws ShapeError, or StateError when parameters changed since prepare() or when y
    /// lies where x does.
    template <class X> Matrix<T> forward(const X& x) const {
        const auto view = detail::read_view<T>(x);
        Matrix<T> y(view.rows(), shape().out);
        forward(view, y);
        return y;
    }
    /// The same into memory of yours (n x out); no allocation after the first call of a thread.
    template <class X, class Y> void forward(const X& x, Y&& y) const { infer_any(detail::read_view<T>(x), detail::write_view<T>(y)); }

private:
    void infer_any(StridedView<const T> from, StridedView<T> to) const {
        check_shapes(from, to);
        if (from.is_row_major() && to.is_row_major()) {
            infer(from.row_major(), to.row_major());
            return;
        }
        // Column-major operands are packed a few rows at a time, as a matrix product packs its own.
        constexpr std::size_t block = 64;
        for (std::size_t first = 0; first < from.rows(); first += block) {
            const std::size_t count = std::min(block, from.rows() - first);
            ArenaScope scope;
            const auto x_block = row_major(from.rows(first, count), scope.arena());
            if (to.is_row_major()) {
                infer(x_block, to.rows(first, count).row_major());
            } else {
                const auto y_block = scope.template matrix<T>(count, to.cols());
                infer(x_block, y_block);
                transpose<T>(MatrixView<const T>(y_block), to.rows(first, count));
            }
        }
    }

public:
    // --- training

    /// Memory for a forward and its backward. Replicas that train in parallel take different streams.
    Tape make_tape(std::uint64_t stream = 0) {
        static_cast<void>(parameters());
        Tape tape = [&] {
            if constexpr (TapedLinear<BaseType>) return Tape(base().make_tape(stream));
            else return Tape(detail::Nothing{});
        }();
        tape.owner_ = identity_;
        tape.stream_ = stream == 0 ? stream_ : detail::mix64(stream_ + detail::mix64(stream));
        return tape;
    }
    /// The training forward: dropout is on, and the tape keeps what backward needs. Throws StateError while merged, or when
    /// the tape was made by another layer.
    template <class X, class Y> void forward(const X& x, Y&& y, Tape& tape) { train(detail::read_view<T>(x), detail::write_view<T>(y), tape); }

private:
    void train(StridedView<const T> from, StridedView<T> to, Tape& tape) {
        expect_trainable("forward", tape);
        check_shapes(from, to);
        refresh();
        tape.ready_ = false;
        tape.arena_.reset();
        tape.cache_ = {};
        StepGuard step{tape.step_};
        ++tape.step_;
        tape.x_ = row_major(from, tape.arena_);
        tape.z_ = tape.x_;
        const auto call = training_call(tape);
        if constexpr (InputAdapter<Method>) {
            if (detail::adapts_input(method_)) {
                const auto z = tape.arena_.template matrix<T>(from.rows(), from.cols());
                method_.adapt_input(call, tape.x_, z);
                tape.z_ = z;
            }
        }
        const MatrixView<T> output = to.is_row_major() ? to.row_major() : tape.arena_.template matrix<T>(to.rows(), to.cols());
        if (!detail::replaces_base(method_)) {
            if constexpr (TapedLinear<BaseType>) {
                tape.base_tape_.set_step(tape.step_ - 1);   // nested layers count with this one
                base().forward(tape.z_, output, tape.base_tape_);
            } else linear_access<BaseType>::forward(base(), tape.z_, output);
        }
        if constexpr (OutputAdapter<Method>) {
            if (detail::adapts_output(method_)) method_.adapt_output(call, tape.x_, output);
        }
        if (!to.is_row_major()) transpose<T>(MatrixView<const T>(output), to);
        step.finished = true;
        tape.ready_ = true;
    }
public:
    /// Adds to the gradients of all trained tensors; dx = dL/dx (n x in). dy (n x out) is not changed.
    /// Throws StateError without a forward of this tape before it. Gradients are incomplete after a bad_alloc.
    template <class Dy, class Dx> void backward(const Dy& dy, Dx&& dx, Tape& tape) { backward_any(detail::read_view<T>(dy), detail::write_view<T>(dx), tape); }

private:
    void backward_any(StridedView<const T> from, StridedView<T> to, Tape& tape) {
        check_backward(from, to, tape);
        const MatrixView<const T> gradient = row_major(from, tape.arena_);
        const MatrixView<T> output = to.is_row_major() ? to.row_major() : tape.arena_.template matrix<T>(to.rows(), to.cols());
        fill<T>(T(0), output);
        add_backward(gradient, output, tape);
        if (!to.is_row_major()) transpose<T>(MatrixView<const T>(output), to);
    }
public:
    /// The same, adding to dx.
    void add_backward(MatrixView<const T> dy, MatrixView<T> dx, Tape& tape) {
        check_backward(dy, dx, tape);
        tape.ready_ = false;
        const auto call = training_call(tape);
        if constexpr (OutputAdapter<Method>) {
            if (detail::adapts_output(method_)) {
                if constexpr (detail::RewritesOutputGradient<Method>) {
                    MatrixView<T> rewritten(const_cast<T*>(dy.data()), dy.rows(), dy.cols(), dy.stride());   // only read, unless copied
                    if (detail::rewrites_output_gradient(method_)) {
                        rewritten = tape.arena_.template matrix<T>(dy.rows(), dy.cols());
                        copy<T>(dy, rewritten);
                    }
                    method_.backward_output(call, tape.x_, rewritten, dx);
                    dy = rewritten;
                } else {
                    method_.backward_output(call, tape.x_, dy, dx);
                }
            }
        }
        const bool through_base = !detail::replaces_base(method_);
        if constexpr (InputAdapter<Method>) {
            if (detail::adapts_input(method_)) {
                const auto dz = tape.arena_.template matrix<T>(dx.rows(), dx.cols());
                fill<T>(T(0), dz);
                if (through_base) base_backward(dy, dz, tape);
                method_.backward_input(call, tape.x_, MatrixView<const T>(dz), dx);   // a chain has gradients of its own to pass on
                return;
            }
        }
        if (through_base) base_backward(dy, dx, tape);
    }

    /// The Linear concept's backward: dx += dL/dx without gradients of parameters, dropout off.
    void backward_input(MatrixView<const T> dy, MatrixView<T> dx) const
        requires ReadableLinear<BaseType> && Mergeable<Method>
    {
        if (merged()) {
            linear_access<BaseType>::backward_input(base(), dy, dx);
            return;
        }
        const auto plan = make_plan();
        constexpr std::size_t block = 64;
        for (std::size_t first = 0; first < shape().out; first += block) {
            const std::size_t count = std::min(block, shape().out - first);
            ArenaScope scope;
            const auto rows = scope.template matrix<T>(count, shape().in);
            planned_rows(base(), *plan, first, rows);
            multiply_nn<T, T>(dy.block(0, first, dy.rows(), count), MatrixView<const T>(rows), dx, {.scale = 1, .accumulate = true, .bias = {}});
        }
    }

    /// Brings derived values (norms, rotations) up to date after parameters changed; inference asks for it. Recurses.
    void prepare() {
        if constexpr (requires { base().prepare(); }) base().prepare();
        refresh();
    }

    /// The trained tensors, those of nested layers first; gradients are made ready.
    ParameterList<T> parameters() {
        ParameterList<T> list;
        if constexpr (requires { base().parameters(); }) list = base().parameters();
        detail::append_parameters<T>(method_, "", list);
        return list;
    }
    /// Numbers that are trained, and that are frozen: the base's and the method's.
    ParameterCount parameter_count() const {
        ParameterCount count = detail::count_parameters(method_);
        if constexpr (requires { base().parameter_count(); }) count += base().parameter_count();
        else count.frozen += shape().in * shape().out + bias().size();
        return count;
    }

    // --- merging

    bool merged() const noexcept { return record_ != nullptr; }
    /// Writes the method into the base, nested layers first: forward now costs the base's forward. Either all of it
    /// happens or nothing is changed; see merge_into for the errors. StateError when merged already.
    MergeReport merge(MergeMode mode = MergeMode::journal)
        requires WritableLinear<BaseType> && Mergeable<Method>
    {
        if (merged()) detail::refuse_state("merge", "the layer is merged already");
        refresh();
        PlanPointer<T> plan = make_plan();   // before the base changes: derived values then fit the base again after unmerge()
        bool inner = false;
        if constexpr (detail::is_adapted_v<BaseType>) {
            if (!base().merged()) {
                base().merge(mode == MergeMode::discard ? MergeMode::journal : mode);
                inner = true;
            }
        }
        try {
            auto record = std::make_unique<MergeRecord<T>>();   // first: nothing may fail once the base is written
            *record = merge_into(base(), std::move(plan), mode);
            record_ = std::move(record);
        } catch (...) {
            if constexpr (detail::is_adapted_v<BaseType>) {
                if (inner) base().unmerge();
            }
            throw;
        }
        merged_inner_ = inner;
        return record_->report;
    }
    /// Gives the base back its bytes, bit for bit. StateError, with nothing changed, when the layer is not merged, when
    /// another merge lies above, when somebody wrote to the base, or when the merge discarded the old weights.
    void unmerge()
        requires WritableLinear<BaseType> && Mergeable<Method>
    {
        if (!merged()) detail::refuse_state("unmerge", "the layer is not merged");
        const PlanPointer<T> plan = record_->plan;
        const MergeMode mode = record_->mode;
        unmerge_from(base(), *record_);
        if constexpr (detail::is_adapted_v<BaseType>) {
            if (merged_inner_) {
                try {
                    base().unmerge();
                } catch (...) {
                    *record_ = merge_into(base(), plan, mode);
                    throw;
                }
            }
        }
        record_.reset();
        merged_inner_ = false;
    }
    /// The record of the merge, nullptr when not merged.
    const MergeRecord<T>* merge_record() const noexcept { return record_.get(); }
    /// The change to the weight as a snapshot; throws StateError when parameters changed since prepare().
    PlanPointer<T> plan() const
        requires Mergeable<Method>
    {
        return make_plan();
    }

    /// The bias that merging gives (1 x out), or no columns: the bias of nested layers and the method's change in it.
    /// Throws NumericError when a tensor of the method is not finite.
    Matrix<T> merged_bias() const
        requires Mergeable<Method>
    {
        Matrix<T> result = [&] {
            if constexpr (requires { base().merged_bias(); }) {
                return base().merged_bias();
            } else {
                const std::span<const T> own = bias();
                return own.empty() ? Matrix<T>() : Matrix<T>(MatrixView<const T>(own.data(), 1, own.size()));
            }
        }();
        if (merged()) return result;
        const auto plan = make_plan();
        if (const char* name = plan->non_finite()) {
            throw NumericError("the adapter holds NaN or infinity", {.subject = std::string("merged_copy: ") + name, .expected = "finite numbers"});
        }
        if (plan->bias_change() == BiasChange::none) return result;
        if (result.empty() && plan->bias_change() == BiasChange::adds) result = Matrix<T>(1, shape().out);
        if (!result.empty()) plan->apply_bias(result.flat());
        return result;
    }

    // --- a start taken out of the base

    /// True while the base is the method's to change: it holds what is left without the method's start (PiSSA with .rebase),
    /// or the trained numbers themselves (SaRA with .in_place). The base stays so when the layer is destroyed, as it stays merged;
    /// who puts another layer on it meanwhile adapts what it holds then.
    bool rebased() const noexcept { return rebase_ != nullptr || in_place_ != nullptr; }
    /// Gives the base the bits back that it had before. The layer goes on computing the same map, in delta form. StateError,
    /// with nothing changed, when the base holds its own bits already, when the layer is merged, or when somebody wrote to the
    /// base (numbers that are trained in place are written back without looking).
    void restore_base()
        requires WritableLinear<BaseType> && detail::Rebasable<Method>
    {
        if (!rebased()) detail::refuse_state("restore_base", "the base holds its own weights");
        if (merged()) detail::refuse_state("restore_base", "the layer is merged; unmerge it first");
        if (rebase_ != nullptr) unmerge_from(base(), *rebase_);
        else in_place_->restore(base());
        rebase_.reset();
        in_place_.reset();
        method_.set_rebased(false);
        refresh();
    }

    // --- as a base of another layer

    void read_rows(std::size_t first, MatrixView<T> rows) const
        requires ReadableLinear<BaseType> && Mergeable<Method>
    {
        if (merged()) linear_access<BaseType>::read_rows(base(), first, rows);
        else planned_rows(base(), *make_plan(), first, rows);
    }
    void write_rows(std::size_t first, MatrixView<const T> rows)
        requires WritableLinear<BaseType> && Mergeable<Method>
    {
        expect_merged();
        linear_access<BaseType>::write_rows(base(), first, rows);
    }
    using storage_type = detail::stored_t<BaseType>;
    void read_stored(std::size_t first, MatrixView<storage_type> rows) const
        requires WritableLinear<BaseType> && Mergeable<Method>
    {
        expect_merged();
        detail::read_stored_rows<BaseType, storage_type>(base(), first, rows);
    }
    void write_stored(std::size_t first, MatrixView<const storage_type> rows)
        requires WritableLinear<BaseType> && Mergeable<Method>
    {
        expect_merged();
        detail::write_stored_rows<BaseType, storage_type>(base(), first, rows);
    }
    void ensure_bias()
        requires requires(BaseType& b) { b.ensure_bias(); b.drop_bias(); }
    {
        base().ensure_bias();
    }
    void drop_bias()
        requires requires(BaseType& b) { b.ensure_bias(); b.drop_bias(); }
    {
        base().drop_bias();
    }
    std::shared_ptr<const char> join() const
        requires requires(const BaseType& b) { b.join(); }
    {
        return base().join();
    }
    std::uint64_t merge_token() const
        requires requires(const BaseType& b) { b.merge_token(); }
    {
        return base().merge_token();
    }
    void set_merge_token(std::uint64_t token)
        requires requires(BaseType& b) { b.set_merge_token(token); }
    {
        base().set_merge_token(token);
    }

private:
    BaseView<T> view() const noexcept { return detail::base_view(base()); }

    void check_shapes(StridedView<const T> x, StridedView<T> y) const {
        expect_columns("forward: x", x.cols(), shape().in, "in");
        expect_shape("forward: y", y.rows(), y.cols(), x.rows(), shape().out);
        expect_apart("forward: y", x, y);
    }
    /// The result is written while the input is still read.
    static void expect_apart(const char* what, StridedView<const T> input, StridedView<T> result) {
        if (input.data() == result.data() && input.rows() != 0 && input.cols() != 0 && result.cols() != 0) {
            throw StateError("the result would be written over the input", {.subject = what, .expected = "memory of its own"});
        }
    }
    void expect_trainable(const char* what, const Tape& tape) const {
        if (merged()) detail::refuse_state(what, "the layer is merged; unmerge it before training");
        if (tape.owner_ == nullptr || tape.owner_ != identity_) detail::refuse_state(what, "the tape was made by another layer, or moved from");
    }
    void check_backward(StridedView<const T> dy, StridedView<T> dx, const Tape& tape) const {
        expect_trainable("backward", tape);
        if (!tape.ready_) detail::refuse_state("backward", "backward without a training forward before it");
        expect_shape("backward: dy", dy.rows(), dy.cols(), tape.x_.rows(), shape().out);
        expect_shape("backward: dx", dx.rows(), dx.cols(), tape.x_.rows(), shape().in);
        expect_apart("backward: dx", dy, dx);
    }
    void expect_merged() const {
        if (!merged()) detail::refuse_state("write_rows", "the weights under an unmerged adapted layer cannot be written through it");
    }
    /// x itself where its rows are dense, else a row-major image in the arena.
    static MatrixView<const T> row_major(StridedView<const T> x, Arena& arena) {
        if (x.is_row_major()) return x.row_major();
        const auto packed = arena.matrix<T>(x.rows(), x.cols());
        transpose<T>(x, packed);
        return packed;
    }

    /// A forward that throws does not count: tried again, it draws the same masks.
    struct StepGuard {
        std::uint64_t& step;
        bool finished = false;
        ~StepGuard() {
            if (!finished) --step;
        }
    };

    Call<Method> training_call(Tape& tape) { return {view(), thread_arena(), tape.arena_, tape.cache_, derived_, tape.stream_, tape.step_, true}; }

    void infer(MatrixView<const T> x, MatrixView<T> y) const {
        if (merged()) {
            linear_access<BaseType>::forward(base(), x, y);
            return;
        }
        expect_fresh();
        ArenaScope scope;
        ArenaScope keep(thread_keep_arena());
        cache_t<Method> cache{};
        const Call<Method> call{view(), scope.arena(), keep.arena(), cache, derived_, stream_, 0, false};
        MatrixView<const T> z = x;
        if constexpr (InputAdapter<Method>) {
            if (detail::adapts_input(method_)) {
                const auto changed = scope.template matrix<T>(x.rows(), x.cols());
                method_.adapt_input(call, x, changed);
                z = changed;
            }
        }
        if (!detail::replaces_base(method_)) linear_access<BaseType>::forward(base(), z, y);
        if constexpr (OutputAdapter<Method>) {
            if (detail::adapts_output(method_)) method_.adapt_output(call, x, y);
        }
    }

    void base_backward(MatrixView<const T> dy, MatrixView<T> dx, Tape& tape) {
        if constexpr (TapedLinear<BaseType>) base().add_backward(dy, dx, tape.base_tape_);
        else linear_access<BaseType>::backward_input(base(), dy, dx);
    }

    /// Takes the start of a method that asks for it out of the base.
    void rebase() {
        if constexpr (detail::Rebasable<Method>) {
            method_.set_rebased(false);   // a copy of a method of another layer
            if (!method_.wants_rebase()) return;
            if constexpr (WritableLinear<BaseType> && !detail::is_adapted_v<BaseType>) {
                if (users_.use_count() > 2) detail::refuse_state("adapt: rebase", "another layer uses this base; the method can have it in delta form only");
                if (PlanPointer<T> plan = detail::rebase_plan(method_)) {
                    auto record = std::make_unique<MergeRecord<T>>();
                    *record = merge_into(base(), std::move(plan));
                    rebase_ = std::move(record);
                } else {
                    in_place_ = std::make_unique<InPlace<T>>(base(), detail::entries(method_));
                }
                method_.set_rebased(true);
            } else {
                detail::refuse_state("adapt: rebase", "this base cannot be written; the method can have it in delta form only");
            }
        }
    }

    void refresh() {
        if constexpr (detail::Rebasable<Method>) {
            if (!method_.knows_rebased(rebased())) method_.set_rebased(rebased());   // it was assigned from another layer
            if constexpr (WritableLinear<BaseType>) {
                // Always: a method that was assigned may count as many writes as the one before it.
                if (in_place_ != nullptr && !merged()) in_place_->write(base(), detail::entries(method_));
            }
        }
        if constexpr (detail::HasDerived<Method>) {
            const std::uint64_t version = detail::version_of(method_);
            const std::uint64_t token = detail::merge_token_of(base());
            if (derived_version_ == version && derived_token_ == token) return;
            if (derived_token_ != token) derived_ = {};   // another layer merged into the base: nothing read from it holds any more
            derived_version_ = 0;
            derived_token_ = token;
            method_.derive(view(), derived_);
            derived_version_ = version;
        }
    }
    void expect_fresh() const {
        if constexpr (detail::Rebasable<Method>) {
            if (!method_.knows_rebased(rebased())) detail::refuse_state("forward", "the method was assigned since the last prepare(); call prepare()");
        }
        if constexpr (detail::HasDerived<Method>) {
            if (derived_version_ != detail::version_of(method_)) detail::refuse_state("forward", "parameters changed since the last prepare(); call prepare()");
            if (derived_token_ != detail::merge_token_of(base())) {
                detail::refuse_state("forward", "another layer merged into the base, or unmerged, since the last prepare(); call prepare()");
            }
        }
    }
    PlanPointer<T> make_plan() const {
        expect_fresh();
        return method_.plan(view(), derived_);
    }

    Held base_;
    Method method_;
    std::uint64_t stream_;
    derived_t<Method> derived_{};
    std::uint64_t derived_version_ = 0;   // 0: not made
    std::uint64_t derived_token_ = 0;
    std::shared_ptr<const char> identity_ = std::make_shared<const char>('\0');   // known by its address, which stays when the layer moves
    std::shared_ptr<const char> users_ = detail::join_base(base());   // the base's share and those of all layers on it
    std::unique_ptr<MergeRecord<T>> rebase_;
    std::unique_ptr<InPlace<T>> in_place_;
    std::unique_ptr<MergeRecord<T>> record_;
    bool merged_inner_ = false;
};

/// A layer that runs `method` on `base`. An lvalue base is referred to and must outlive the layer; an rvalue is owned; a
/// std::shared_ptr is shared. `stream` keys the layer's random numbers (default: default_stream(base)).
/// Throws ShapeError when the method was made for another shape, StateError for an empty std::shared_ptr.
template <class Base, class Method> auto adapt(Base&& base, Method method, std::optional<std::uint64_t> stream = std::nullopt) {
    using Stored = std::conditional_t<std::is_lvalue_reference_v<Base>, Base, std::remove_cvref_t<Base>>;
    constexpr bool shared = requires { typename std::remove_cvref_t<Base>::element_type; base.use_count(); };
    using Kept = std::conditional_t<shared, std::remove_cvref_t<Base>, Stored>;
    using BaseType = typename detail::Holder<Kept>::type;
    static_assert(!std::is_const_v<BaseType>, "peft: the base is const; merge would write into it, so pass a mutable one");
    constexpr bool base_ok = detail::diagnose_linear<BaseType>();
    constexpr bool method_ok = detail::diagnose_adapter<Method>();
    if constexpr (base_ok && method_ok) {
        if constexpr (shared) {
            if (base == nullptr) throw StateError("there is no base", {.subject = "adapt", .expected = "a layer", .found = "an empty shared_ptr"});
            return Adapted<Kept, Method>(detail::Holder<Kept>{std::forward<Base>(base)}, std::move(method), stream);
        } else if constexpr (std::is_lvalue_reference_v<Kept>) return Adapted<Kept, Method>(detail::Holder<Kept>{&base}, std::move(method), stream);
        else return Adapted<Kept, Method>(detail::Holder<Kept>{std::forward<Base>(base)}, std::move(method), stream);
    }
}

/// A new dense layer with the merged weight and bias; the layer and its base stay as they are. Needs no writable base.
/// Throws NumericError when the result is not finite in its storage type.
template <StorageScalar S, class Base, class Method> auto merged_copy(const Adapted<Base, Method>& layer) {
    using T = typename Method::value_type;
    const LayerShape shape = layer.shape();
    const Matrix<T> bias = layer.merged_bias();
    if (!all_finite(bias.flat())) throw NumericError("the merged bias is not finite", {.subject = "merged_copy: bias", .expected = "finite numbers", .found = "NaN or infinity"});
    DenseLinear<T, S> result(Matrix<S>(shape.out, shape.in), bias);
    const std::size_t block = detail::merge_block_rows(shape);
    for (std::size_t first = 0; first < shape.out; first += block) {
        const std::size_t count = std::min(block, shape.out - first);
        ArenaScope scope;
        const auto rows = scope.template matrix<T>(count, shape.in);
        layer.read_rows(first, rows);
        result.write_rows(first, rows);
        for (std::size_t i = 0; i < count; ++i) {
            if (!all_finite(std::span<const S>(std::as_const(result).stored().view().row_span(first + i)))) {
                throw NumericError("the merged weight is not finite", {.subject = "merged_copy: row " + std::to_string(first + i), .expected = "finite numbers"});
            }
        }
    }
    return result;
}
template <class Base, class Method> auto merged_copy(const Adapted<Base, Method>& layer) { return merged_copy<typename Method::value_type>(layer); }

PEFT_ISA_END
