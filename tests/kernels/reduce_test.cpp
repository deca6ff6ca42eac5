#include <peft/core/matrix.hpp>
#include <peft/kernels/reduce.hpp>

#include "support/catch.hpp"
#include "support/guarded.hpp"
#include "support/reference.hpp"

#include <cmath>
#include <limits>
#include <vector>

using namespace peft;
using namespace peft::test;

namespace {

template <class T> std::vector<std::size_t> widths() {
    const std::size_t v = (simd_level() == SimdLevel::avx512 ? 64 : simd_level() == SimdLevel::avx2 ? 32 : 16) / sizeof(T);
    return {0, 1, 3, v - 1, v, v + 1, 3 * v + 2, 4 * v, 9 * v + 1, 513};
}
const Placement placements[] = {{0, 0}, {1, 3}, {3, 1}};

}  // namespace

TEMPLATE_TEST_CASE("column sums and column dots add to what stood there", "", float, double) {
    using T = TestType;
    for (const std::size_t rows : {std::size_t{0}, std::size_t{1}, std::size_t{4}, std::size_t{11}}) {
        for (const std::size_t cols : widths<T>()) {
            for (const Placement placement : placements) {
                INFO("rows " << rows << ", cols " << cols << ", offset " << placement.offset << ", gap " << placement.gap);
                Guarded<T> a(rows, cols, placement), b(rows, cols, placement), sums(1, cols, {placement.offset, 0}), dots(1, cols);
                a.randomize(1);
                b.randomize(2);
                sums.randomize(3);
                dots.randomize(4);
                Expected wanted_sums(1, cols), wanted_dots(1, cols);
                wanted_sums.terms = wanted_dots.terms = rows;
                for (std::size_t j = 0; j < cols; ++j) {
                    wanted_sums.add(0, j, exact(sums.read()(0, j)));
                    wanted_dots.add(0, j, exact(dots.read()(0, j)));
                    for (std::size_t i = 0; i < rows; ++i) {
                        wanted_sums.add(0, j, exact(a.read()(i, j)));
                        wanted_dots.add(0, j, exact(a.read()(i, j)) * exact(b.read()(i, j)));
                    }
                }
                add_column_sums(a.read(), sums.span());
                add_column_dots(a.read(), b.read(), dots.span());
                CHECK(difference(sums.read(), wanted_sums) == "");
                CHECK(difference(dots.read(), wanted_dots) == "");
                CHECK(sums.intact());
                CHECK(dots.intact());
            }
        }
    }
}

TEMPLATE_TEST_CASE("row norms, dot products and sums of squares agree with the plain loop", "", float, double) {
    using T = TestType;
    for (const std::size_t cols : widths<T>()) {
        for (const Placement placement : placements) {
            INFO("cols " << cols << ", offset " << placement.offset);
            Guarded<T> w(19, cols, placement), norms(1, 19, {placement.offset, 0}), result(1, 1);
            w.randomize(1);
            Expected wanted_norms(1, 19), wanted_dot(1, 1), wanted_squares(1, 1);
            wanted_norms.terms = wanted_dot.terms = wanted_squares.terms = cols;
            for (std::size_t j = 0; j < cols; ++j) {
                for (std::size_t i = 0; i < 19; ++i) wanted_norms.add(0, i, exact(w.read()(i, j)) * exact(w.read()(i, j)));
                wanted_dot.add(0, 0, exact(w.read()(0, j)) * exact(w.read()(1, j)));
                wanted_squares.add(0, 0, exact(w.read()(2, j)) * exact(w.read()(2, j)));
            }
            row_squared_norms(w.read(), norms.span());
            CHECK(difference(norms.read(), wanted_norms) == "");
            CHECK(norms.intact());
            result.view()(0, 0) = dot(w.read().row_span(0), w.read().row_span(1));
            CHECK(difference(result.read(), wanted_dot) == "");
            Matrix<double> squares(1, 1);
            squares(0, 0) = sum_of_squares(w.read().row_span(2));   // in double whatever T is
            CHECK(difference<double>(squares, wanted_squares) == "");
        }
    }
}

TEMPLATE_TEST_CASE("max_abs finds the largest magnitude, infinity, and any NaN", "", float, double) {
    using T = TestType;
    CHECK(max_abs(std::span<const T>{}) == T{0});
    for (const std::size_t count : widths<T>()) {
        for (std::size_t at = 0; at < count; ++at) {
            Guarded<T> values(1, count, {1, 0});
            values.randomize(3);
            values.view()(0, at) = T{-7};
            CHECK(max_abs(values.read_span()) == T{7});
            values.view()(0, at) = -std::numeric_limits<T>::infinity();
            CHECK(max_abs(values.read_span()) == std::numeric_limits<T>::infinity());
            if (count > 1) values.view()(0, (at + 1) % count) = -std::numeric_limits<T>::quiet_NaN();
            CHECK(std::isnan(max_abs(values.read_span())) == (count > 1));
        }
    }
}

TEMPLATE_TEST_CASE("reductions of large matrices have the same bits for one and for two threads", "", float, double) {
    using T = TestType;
    Guarded<T> a(200, 1500), b(200, 1500);
    a.randomize(1);
    b.randomize(2);
    std::vector<T> sums[2], dots[2], norms[2];
    for (int run = 0; run < 2; ++run) {
        set_threads(run + 1);
        sums[run].resize(1500);
        dots[run].resize(1500);
        norms[run].resize(200);
        add_column_sums(a.read(), std::span<T>(sums[run]));
        add_column_dots(a.read(), b.read(), std::span<T>(dots[run]));
        row_squared_norms(a.read(), std::span<T>(norms[run]));
    }
    set_threads(0);
    CHECK(sums[0] == sums[1]);
    CHECK(dots[0] == dots[1]);
    CHECK(norms[0] == norms[1]);
    CHECK(std::fabs(norms[0][199]) > T{0});
    CHECK(std::fabs(sums[0][1499]) > T{0});
}
