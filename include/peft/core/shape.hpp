#pragma once
#include <peft/core/error.hpp>

#include <cstddef>
#include <limits>
#include <string>
#include <string_view>

PEFT_BEGIN

/// The shape of a linear map: x (n x in) -> y (n x out), weight (out x in).
struct LayerShape {
    std::size_t in = 0;
    std::size_t out = 0;
    friend bool operator==(const LayerShape&, const LayerShape&) = default;
};

namespace detail {

/// rows * cols, or ShapeError where the product does not fit.
inline std::size_t checked_size(std::size_t rows, std::size_t cols, std::size_t element_bytes = 1) {
    const std::size_t limit = static_cast<std::size_t>(std::numeric_limits<std::ptrdiff_t>::max()) / element_bytes;
    if (cols != 0 && rows > limit / cols) {
        throw ShapeError("a matrix of this size cannot be addressed", {.found = shape_text(rows, cols)});
    }
    return rows * cols;
}

}  // namespace detail

/// Throws ShapeError unless (rows, cols) is (want_rows, want_cols); `what` says which matrix of which call.
PEFT_NOINLINE inline void expect_shape(std::string_view what, std::size_t rows, std::size_t cols, std::size_t want_rows,
                         std::size_t want_cols) {
    if (rows == want_rows && cols == want_cols) return;
    throw ShapeError("wrong shape", {.subject = std::string(what),
                                     .expected = detail::shape_text(want_rows, want_cols),
                                     .found = detail::shape_text(rows, cols)});
}

/// Throws ShapeError unless x has `want` columns.
PEFT_NOINLINE inline void expect_columns(std::string_view what, std::size_t cols, std::size_t want, std::string_view want_name) {
    if (cols == want) return;
    throw ShapeError("wrong number of columns", {.subject = std::string(what),
                                                 .expected = std::string(want_name) + " = " + std::to_string(want),
                                                 .found = std::to_string(cols)});
}

/// Throws ShapeError with this message unless the shapes are the same.
PEFT_NOINLINE inline void expect_same_layer(std::string_view what, std::string_view message, LayerShape found, LayerShape expected) {
    if (found == expected) return;
    const auto text = [](LayerShape shape) { return "in = " + std::to_string(shape.in) + ", out = " + std::to_string(shape.out); };
    throw ShapeError(message, {.subject = std::string(what), .expected = text(expected), .found = text(found)});
}

PEFT_END
