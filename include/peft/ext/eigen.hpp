#pragma once
#include <peft/core/matrix_access.hpp>

#include <Eigen/Core>

#include <type_traits>

PEFT_BEGIN

namespace detail {

template <class X>
concept EigenDense = requires { typename X::Scalar; X::IsRowMajor; } && std::is_base_of_v<Eigen::DenseBase<X>, X>;
/// The object has memory of its own (a matrix, a map, a block), unlike an expression such as a + b.
template <class X> concept EigenStored = EigenDense<X> && ((static_cast<int>(Eigen::internal::traits<X>::Flags) & Eigen::DirectAccessBit) != 0);

}  // namespace detail

/// Eigen matrices, maps, refs and blocks of either storage order wherever the library takes a matrix, without a copy.
/// An expression (a + b, a.transpose() * c) is a compile-time error that says so: evaluate it first.
template <detail::EigenStored X> struct matrix_access<X> {
    static constexpr bool is_matrix = true;
    static auto view(X& x) {
        using Element = std::remove_pointer_t<decltype(x.data())>;
        return make<Element>(x);
    }
    static auto view(const X& x) { return make<const typename X::Scalar>(x); }

private:
    template <class Element, class Y> static StridedView<Element> make(Y& x) {
        const auto outer = static_cast<std::size_t>(x.outerStride());
        const auto inner = static_cast<std::size_t>(x.innerStride());
        return {x.data(), static_cast<std::size_t>(x.rows()), static_cast<std::size_t>(x.cols()), X::IsRowMajor ? outer : inner, X::IsRowMajor ? inner : outer};
    }
};

template <detail::EigenDense X>
    requires(!detail::EigenStored<X>)
struct matrix_access<X> {
    static constexpr bool is_matrix = false;
    static constexpr bool is_expression = true;
};

PEFT_END
