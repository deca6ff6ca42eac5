#pragma once
#include <peft/core/matrix_access.hpp>

#include <xtensor/xarray.hpp>
#include <xtensor/xtensor.hpp>

#include <string>
#include <type_traits>

PEFT_BEGIN

namespace detail {

template <class X> concept XtensorExpression = xt::is_xexpression<X>::value;
/// A container with memory of its own whose storage order is known at compile time.
template <class X>
concept XtensorStored = XtensorExpression<X> && requires(X& x) {
    typename X::storage_type;
    x.data();
    x.storage();
} && (X::static_layout == xt::layout_type::row_major || X::static_layout == xt::layout_type::column_major);

}  // namespace detail

/// xt::xtensor<T, 2> and xt::xarray<T> (and adaptors) of either storage order wherever the library takes a matrix, without
/// a copy. An xarray of another dimension is a ShapeError. An expression, or a layout that is only known at run time, is a
/// compile-time error that says so.
template <detail::XtensorStored X> struct matrix_access<X> {
    static constexpr bool is_matrix = true;
    static auto view(X& x) { return make<std::remove_pointer_t<decltype(x.data())>>(x); }
    static auto view(const X& x) { return make<const typename X::value_type>(x); }

private:
    template <class Element, class Y> static StridedView<Element> make(Y& x) {
        if (x.dimension() != 2) {
            throw ShapeError("not a matrix", {.subject = "xtensor", .expected = "2 dimensions", .found = std::to_string(x.dimension())});
        }
        const std::size_t rows = x.shape(0);
        const std::size_t cols = x.shape(1);
        // not x.strides(): xtensor gives a dimension of extent 1 the stride 0
        constexpr bool row_major = X::static_layout == xt::layout_type::row_major;
        return {x.data(), rows, cols, row_major ? cols : 1, row_major ? 1 : rows};
    }
};

template <detail::XtensorExpression X>
    requires(!detail::XtensorStored<X>)
struct matrix_access<X> {
    static constexpr bool is_matrix = false;
    static constexpr bool is_expression = true;
};

PEFT_END
