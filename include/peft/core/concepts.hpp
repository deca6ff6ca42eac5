#pragma once
#include <peft/core/arena.hpp>
#include <peft/core/matrix_view.hpp>
#include <peft/core/parameter.hpp>
#include <peft/core/plan.hpp>
#include <peft/core/scalar.hpp>

#include <concepts>
#include <cstddef>
#include <cstdint>
#include <span>
#include <type_traits>

PEFT_BEGIN

/// How the library talks to a linear layer: through members of the same names by default. A third-party layer that
/// cannot be changed opts in by specialising linear_access<TheirLayer> with value_type and these static functions.
template <class L> struct linear_access {};

template <class L>
    requires requires { typename L::value_type; }
struct linear_access<L> {
    using value_type = typename L::value_type;
    template <class X> static auto shape(const X& l) -> decltype(l.shape()) { return l.shape(); }
    template <class X> static auto bias(const X& l) -> decltype(l.bias()) { return l.bias(); }
    template <class X, class Input, class Output> static auto forward(const X& l, Input x, Output y) -> decltype(l.forward(x, y)) { return l.forward(x, y); }
    template <class X, class Input, class Output> static auto backward_input(const X& l, Input dy, Output dx) -> decltype(l.backward_input(dy, dx)) { return l.backward_input(dy, dx); }
    template <class X, class Rows> static auto read_rows(const X& l, std::size_t first, Rows rows) -> decltype(l.read_rows(first, rows)) { return l.read_rows(first, rows); }
    template <class X, class Rows> static auto write_rows(X& l, std::size_t first, Rows rows) -> decltype(l.write_rows(first, rows)) { return l.write_rows(first, rows); }
};

template <class L> using linear_value_t = typename linear_access<std::remove_cvref_t<L>>::value_type;

/// A frozen map y = x W^T + b that a method can change. A type models it if
///   1. it names its compute type value_type (float or double);
///   2. it reports its shape() and bias() (empty when it has none);
///   3. forward(x, y) overwrites y and may run on several threads at once;
///   4. backward_input(dy, dx) adds dL/dx to dx. It never computes weight gradients: the base is frozen.
/// It is *not* required that the weight exists as a matrix: it may be quantised, remote or generated.
template <class L>
concept Linear = requires { requires Scalar<linear_value_t<L>>; } &&
                 requires(const L& l, MatrixView<const linear_value_t<L>> x, MatrixView<linear_value_t<L>> y) {
                     { linear_access<L>::shape(l) } -> std::convertible_to<LayerShape>;
                     { linear_access<L>::bias(l) } -> std::convertible_to<std::span<const linear_value_t<L>>>;
                     linear_access<L>::forward(l, x, y);
                     linear_access<L>::backward_input(l, x, y);
                 };

/// The rows of W can be read as numbers: needed by norms (DoRA), starts (PiSSA) and merged_copy.
template <class L>
concept ReadableLinear = Linear<L> && requires(const L& l, MatrixView<linear_value_t<L>> rows) {
    linear_access<L>::read_rows(l, std::size_t{}, rows);
};

/// The rows of W can be replaced: needed by merge. Optional members make more possible:
///   storage_type, read_stored(first, rows), write_stored(first, rows)   weights are kept in another type than value_type
///   ensure_bias(), drop_bias()        a bias can be created where there is none
///   merge_token(), set_merge_token()  who merged last; without them the caller keeps merges and unmerges in order
template <class L>
concept WritableLinear = ReadableLinear<L> && requires(L& l, MatrixView<const linear_value_t<L>> rows) {
    linear_access<L>::write_rows(l, std::size_t{}, rows);
};

/// A Linear with a training forward of its own (an adapted layer): it nests.
template <class L>
concept TapedLinear = Linear<L> && requires(L& l, typename L::Tape& tape, MatrixView<const linear_value_t<L>> x, MatrixView<linear_value_t<L>> y) {
    l.forward(x, y, tape);
    l.add_backward(x, y, tape);
};

/// What a method may ask of the base under it, whatever that base is. Cheap to copy; does not own the base.
template <Scalar T> class BaseView {
public:
    struct Operations {
        LayerShape (*shape)(const void*);
        std::span<const T> (*bias)(const void*);
        void (*product)(const void*, MatrixView<const T>, MatrixView<T>);
        void (*transposed_product)(const void*, MatrixView<const T>, MatrixView<T>);
        void (*read_rows)(const void*, std::size_t, MatrixView<T>);   // nullptr: not readable
    };

    BaseView() noexcept = default;
    BaseView(const void* base, const Operations* operations) noexcept : base_(base), operations_(operations) {}

    LayerShape shape() const { return operations_->shape(base_); }
    std::span<const T> bias() const { return operations_->bias(base_); }
    /// y = x W^T, without the bias.
    void product(MatrixView<const T> x, MatrixView<T> y) const { operations_->product(base_, x, y); }
    /// dx += dy W
    void transposed_product(MatrixView<const T> dy, MatrixView<T> dx) const { operations_->transposed_product(base_, dy, dx); }
    bool readable() const noexcept { return operations_->read_rows != nullptr; }
    /// Rows first .. first + rows.rows() of W. Throws StateError if the base cannot be read.
    void read_rows(std::size_t first, MatrixView<T> rows) const {
        if (!readable()) throw StateError("this method reads the weight of the base, and the base cannot be read");
        operations_->read_rows(base_, first, rows);
    }

private:
    const void* base_ = nullptr;
    const Operations* operations_ = nullptr;
};

/// Changes of single numbers of W: positions row * in + column, rising, and what is added there.
template <Scalar T> struct Entries {
    std::span<const std::int32_t> positions;
    std::span<const T> changes;
};

namespace detail {
struct Nothing {};
template <class A> struct cache_of { using type = Nothing; };
template <class A> requires requires { typename A::Cache; } struct cache_of<A> { using type = typename A::Cache; };
template <class A> struct derived_of { using type = Nothing; };
template <class A> requires requires { typename A::Derived; } struct derived_of<A> { using type = typename A::Derived; };
}  // namespace detail

/// What a method's forward keeps for its backward: views into the arena of the tape.
template <class A> using cache_t = typename detail::cache_of<A>::type;
/// What follows from parameters and base alone, valid until a parameter changes.
template <class A> using derived_t = typename detail::derived_of<A>::type;

PEFT_END

PEFT_ISA_BEGIN

/// What every hook of a method gets.
template <class A> struct Call {
    using T = typename A::value_type;

    BaseView<T> base;
    Arena& scratch;               ///< memory for the duration of the hook; take it through an ArenaScope
    Arena& keep;                  ///< memory that lives until backward in training, until the end of the call otherwise
    cache_t<A>& cache;            ///< filled by forward hooks, read by backward hooks
    const derived_t<A>& derived;
    std::uint64_t stream = 0;     ///< of the layer, for random numbers
    std::uint64_t step = 0;       ///< of the tape: each training forward has the next one
    bool training = false;
};

/// Changes y after the base: adapt_output(call, x, y) turns the base's y into the adapted one;
/// backward_output(call, x, dy, dx) adds to the gradients and to dx. A dy taken as MatrixView<T> is rewritten into the
/// gradient of the base's output; taken as MatrixView<const T> it is only read, and Adapted saves the copy.
template <class A>
concept OutputAdapter = requires(A& a, const A& c, const Call<A>& call, MatrixView<const typename A::value_type> x, MatrixView<typename A::value_type> y) {
    c.adapt_output(call, x, y);
    a.backward_output(call, x, y, y);
};

/// Changes x before the base: adapt_input(call, x, z) overwrites z (n x in); backward_input(call, x, dz, dx) adds to dx.
template <class A>
concept InputAdapter = requires(A& a, const A& c, const Call<A>& call, MatrixView<const typename A::value_type> x, MatrixView<typename A::value_type> z) {
    c.adapt_input(call, x, z);
    a.backward_input(call, x, x, z);
};

/// A method: touches the map at one or two of these places, and names its options, shape and tensors.
template <class A>
concept Adapter = Scalar<typename A::value_type> && (OutputAdapter<A> || InputAdapter<A>) && requires(const A& a) {
    typename A::Options;
    { a.shape() } -> std::convertible_to<LayerShape>;
    { a.options() } -> std::convertible_to<const typename A::Options&>;
    A::each_tensor(a, [](std::string_view, const auto&, Role, TensorShape = {}) {});
};

/// A method whose change is a change of the weight: plan(base, derived) describes it.
template <class A>
concept Mergeable = Adapter<A> && requires(const A& a, const BaseView<typename A::value_type>& base, const derived_t<A>& derived) {
    { a.plan(base, derived) } -> std::convertible_to<PlanPointer<typename A::value_type>>;
};

PEFT_ISA_END

PEFT_ISA_DETAIL_BEGIN

template <class A> concept HasDerived = !std::same_as<derived_t<A>, Nothing>;

/// True if backward_output takes dy as MatrixView<T>, i.e. rewrites it.
template <class A>
concept RewritesOutputGradient = OutputAdapter<A> && !requires(A& a, const Call<A>& call, MatrixView<const typename A::value_type> x, MatrixView<typename A::value_type> dx) {
    a.backward_output(call, x, x, dx);
};

template <class L> struct base_operations {
    using T = linear_value_t<L>;
    using Access = linear_access<L>;
    static const L& self(const void* base) { return *static_cast<const L*>(base); }
    static LayerShape shape(const void* base) { return Access::shape(self(base)); }
    static std::span<const T> bias(const void* base) { return Access::bias(self(base)); }
    static void product(const void* base, MatrixView<const T> x, MatrixView<T> y) {
        const L& l = self(base);
        if constexpr (requires { l.product(x, y); }) {
            l.product(x, y);
        } else {
            // The part of forward that is linear: what remains after f(0), which is the bias whatever the layer does to it.
            Access::forward(l, x, y);
            ArenaScope scope;
            const auto zero = scope.matrix<T>(1, x.cols());
            const auto offset = scope.matrix<T>(1, y.cols());
            for (std::size_t j = 0; j < x.cols(); ++j) zero(0, j) = T(0);
            Access::forward(l, MatrixView<const T>(zero), offset);
            for (std::size_t i = 0; i < y.rows(); ++i) {
                for (std::size_t j = 0; j < y.cols(); ++j) y(i, j) -= offset(0, j);
            }
        }
    }
    static void transposed_product(const void* base, MatrixView<const T> dy, MatrixView<T> dx) { Access::backward_input(self(base), dy, dx); }
    static void read_rows(const void* base, std::size_t first, MatrixView<T> rows)
        requires ReadableLinear<L>
    {
        Access::read_rows(self(base), first, rows);
    }
    static constexpr typename BaseView<T>::Operations make() {
        typename BaseView<T>::Operations operations{&shape, &bias, &product, &transposed_product, nullptr};
        if constexpr (ReadableLinear<L>) operations.read_rows = &read_rows;
        return operations;
    }
    static constexpr typename BaseView<T>::Operations table = make();
};

template <class L> BaseView<linear_value_t<L>> base_view(const L& base) noexcept { return {&base, &base_operations<L>::table}; }

PEFT_ISA_DETAIL_END
