#include <peft/kernels/matmul.hpp>

#include "support/catch.hpp"
#include "support/guarded.hpp"
#include "support/reference.hpp"

#include <cmath>
#include <initializer_list>
#include <limits>
#include <vector>

using namespace peft;
using namespace peft::test;

namespace {

struct Sizes {
    std::size_t n, out, in;
};

/// Around the vector width, the tile and the blocks; thin in each direction; empty in each direction.
template <class T> std::vector<Sizes> sizes() {
    const std::size_t v = (simd_level() == SimdLevel::avx512 ? 64 : simd_level() == SimdLevel::avx2 ? 32 : 16) / sizeof(T);
    std::vector<Sizes> list;
    for (const std::size_t n : {std::size_t{1}, std::size_t{3}, std::size_t{9}, 3 * v + 2}) {
        for (const std::size_t out : {std::size_t{1}, std::size_t{3}, v - 1, v, v + 1, 3 * v, 3 * v + 2}) {
            for (const std::size_t in : {std::size_t{1}, std::size_t{3}, v - 1, v, v + 1, 3 * v + 2, std::size_t{64}, 64 + v + 3}) {
                list.push_back({n, out, in});
            }
        }
    }
    for (const Sizes s : {Sizes{0, 5, 7}, Sizes{5, 0, 7}, Sizes{5, 7, 0}, Sizes{0, 0, 0}, Sizes{17, 33, 256}, Sizes{13, 50, 257}, Sizes{10, 20, 513},
                          Sizes{481, 20, 65}, Sizes{70, 16, 300}, Sizes{300, 17, 20}, Sizes{2, 300, 70}, Sizes{8, 100, 130}, Sizes{40, 300, 8}}) {
        list.push_back(s);
    }
    return list;
}

enum class Kind { nt, nn, tn };

/// Runs one product on guarded, misaligned operands and compares it with the plain loop.
template <class T, class S> void check_product(Kind kind, Sizes size, Placement placement, T scale, bool accumulate, bool with_bias) {
    INFO("n " << size.n << ", out " << size.out << ", in " << size.in << ", offset " << placement.offset << ", gap " << placement.gap
              << ", scale " << scale << ", accumulate " << accumulate << ", bias " << with_bias << ", kind " << static_cast<int>(kind));
    const std::size_t rows = kind == Kind::tn ? size.out : size.n;
    const std::size_t cols = kind == Kind::nt ? size.out : size.in;
    const std::size_t depth = kind == Kind::nt ? size.in : kind == Kind::nn ? size.out : size.n;
    Guarded<T> left(size.n, kind == Kind::nt ? size.in : size.out, placement);
    Guarded<S> right(kind == Kind::tn ? size.n : size.out, size.in, placement);
    Guarded<T> result(rows, cols, placement);
    Guarded<T> bias(1, cols, {placement.offset, 0});
    left.randomize(1);
    right.randomize(2);
    result.randomize(3);
    bias.randomize(4);

    const auto a = left.read();
    const auto b = right.read();
    Expected expected = expected_product(
        rows, cols, depth, static_cast<long double>(scale), [&](std::size_t i, std::size_t k) { return exact(kind == Kind::tn ? a(k, i) : a(i, k)); },
        [&](std::size_t k, std::size_t j) { return exact(kind == Kind::nt ? b(j, k) : b(k, j)); });
    for (std::size_t i = 0; i < rows; ++i) {
        for (std::size_t j = 0; j < cols; ++j) {
            if (accumulate) expected.add(i, j, exact(result.read()(i, j)));
            if (with_bias) expected.add(i, j, exact(bias.read()(0, j)));
        }
    }
    if (!accumulate) {   // what stood there must not be read
        for (std::size_t i = 0; i < rows; ++i)
            for (std::size_t j = 0; j < cols; ++j) result.view()(i, j) = std::numeric_limits<T>::quiet_NaN();
    }

    const Product<T> options{scale, accumulate, with_bias ? bias.read_span() : std::span<const T>{}};
    if (kind == Kind::nt) multiply_nt<T, S>(a, b, result.view(), options);
    else if (kind == Kind::nn) multiply_nn<T, S>(a, b, result.view(), options);
    else if constexpr (std::is_same_v<T, S>) multiply_tn<T>(a, b, result.view(), options);

    CHECK(difference(result.read(), expected) == "");
    CHECK(result.intact());
    CHECK(left.intact());
    CHECK(right.intact());
}

template <class T, class S> void check_all(Kind kind) {
    std::size_t index = 0;
    for (const Sizes size : sizes<T>()) {
        const Placement placement = index % 3 == 0 ? Placement{} : index % 3 == 1 ? Placement{1, 3} : Placement{3, 1};
        check_product<T, S>(kind, size, placement, T{1}, false, false);
        check_product<T, S>(kind, size, placement, T{-0.75}, index % 2 == 0, index % 4 < 2);
        ++index;
    }
}

template <class T> Matrix<T> random_matrix(std::size_t rows, std::size_t cols, std::uint64_t seed) {
    return Matrix<T>(Guarded<T>(rows, cols).randomize(seed).read());
}

}  // namespace

TEMPLATE_TEST_CASE("multiply_nt agrees with the plain loop for every storage type", "", float, double) {
    check_all<TestType, TestType>(Kind::nt);
    check_all<TestType, bfloat16>(Kind::nt);
    check_all<TestType, float16>(Kind::nt);
}

TEMPLATE_TEST_CASE("multiply_nn agrees with the plain loop for every storage type", "", float, double) {
    check_all<TestType, TestType>(Kind::nn);
    check_all<TestType, bfloat16>(Kind::nn);
    check_all<TestType, float16>(Kind::nn);
}

TEMPLATE_TEST_CASE("multiply_tn agrees with the plain loop", "", float, double) { check_all<TestType, TestType>(Kind::tn); }

TEMPLATE_TEST_CASE("products accept matrices and mutable views without naming types", "", float, double) {
    using T = TestType;
    const Matrix<T> x = random_matrix<T>(5, 7, 1);
    Matrix<T> w = random_matrix<T>(4, 7, 2);
    Matrix<T> first(5, 4), second(5, 4), third(5, 4);
    multiply_nt(x, w, first);
    multiply_nt<T>(x, w.view(), second.view());
    multiply_nt(x.view(), std::as_const(w).view(), third.view(), {.scale = 1});
    CHECK(same_bits<T>(first, second));
    CHECK(same_bits<T>(first, third));
    Matrix<T> dx(5, 7), dx2(5, 7), dw(4, 7), dw2(4, 7);
    multiply_nn(first, w, dx);
    multiply_nn<T>(first, w, dx2.view());
    multiply_tn(first, x, dw);
    multiply_tn<T>(first, x, dw2.view());
    CHECK(same_bits<T>(dx, dx2));
    CHECK(same_bits<T>(dw, dw2));
}

TEMPLATE_TEST_CASE("products have the same bits for one and for two threads", "", float, double) {
    using T = TestType;
    // each above the work threshold: few panels and many rows, many panels, skinny both ways, several blocks of the sum
    for (const Sizes size : {Sizes{600, 40, 300}, Sizes{33, 900, 400}, Sizes{500, 16, 600}, Sizes{5, 900, 600}, Sizes{700, 700, 16}}) {
        INFO("n " << size.n << ", out " << size.out << ", in " << size.in);
        const Matrix<T> x = random_matrix<T>(size.n, size.in, 1);
        const Matrix<T> w = random_matrix<T>(size.out, size.in, 2);
        const Matrix<T> dy = random_matrix<T>(size.n, size.out, 3);
        Matrix<T> y[2], dx[2], dw[2];
        for (int run = 0; run < 2; ++run) {
            set_threads(run + 1);
            y[run] = Matrix<T>(size.n, size.out);
            dx[run] = Matrix<T>(size.n, size.in);
            dw[run] = Matrix<T>(size.out, size.in);
            multiply_nt(x, w, y[run], {.scale = T{0.3125}});
            multiply_nn(dy, w, dx[run], {.scale = T{0.3125}});
            multiply_tn(dy, x, dw[run], {.scale = T{0.3125}});
        }
        set_threads(0);
        CHECK(same_bits<T>(y[0], y[1]));
        CHECK(same_bits<T>(dx[0], dx[1]));
        CHECK(same_bits<T>(dw[0], dw[1]));
    }
}

TEMPLATE_TEST_CASE("the bits of a row do not depend on how many other rows there are", "", float, double) {
    using T = TestType;
    for (const std::size_t out : {std::size_t{7}, std::size_t{100}}) {
        const std::size_t n = 90, in = 300;
        const Matrix<T> x = random_matrix<T>(n, in, 1);
        const Matrix<T> w = random_matrix<T>(out, in, 2);
        const Matrix<T> dy = random_matrix<T>(n, out, 3);
        Matrix<T> y = random_matrix<T>(n, out, 4), dx = random_matrix<T>(n, in, 5);
        const Matrix<T> y0 = y, dx0 = dx;
        const std::vector<T> bias(300, T{0.6875});
        const std::span<const T> b(bias);
        multiply_nt(x, w, y, {T{1.3125}, true, b.first(out)});
        multiply_nn(dy, w, dx, {T{1.3125}, true, b.first(in)});
        for (std::size_t rows = 9; rows < 30; ++rows) {
            const std::size_t first = n - 2 * rows;
            Matrix<T> part(y0.rows(first, rows)), dpart(dx0.rows(first, rows));
            multiply_nt(x.rows(first, rows), w, part, {T{1.3125}, true, b.first(out)});
            multiply_nn(dy.rows(first, rows), w, dpart, {T{1.3125}, true, b.first(in)});
            CHECK(same_bits<T>(part, std::as_const(y).rows(first, rows)));
            CHECK(same_bits<T>(dpart, std::as_const(dx).rows(first, rows)));
        }
        Matrix<T> few(y0.rows(0, 8));   // up to 8 rows: a class of its own
        multiply_nt(x.rows(0, 8), w, few, {T{1.3125}, true, b.first(out)});
        for (std::size_t rows = 1; rows < 8; ++rows) {
            Matrix<T> part(y0.rows(0, rows));
            multiply_nt(x.rows(0, rows), w, part, {T{1.3125}, true, b.first(out)});
            CHECK(same_bits<T>(part, std::as_const(few).rows(0, rows)));
        }
    }
}

TEMPLATE_TEST_CASE("NaN and infinity reach every sum they belong to and no other", "", float, double) {
    using T = TestType;
    for (const Sizes size : {Sizes{3, 20, 70}, Sizes{20, 50, 70}, Sizes{20, 5, 300}, Sizes{20, 50, 9}}) {
        for (const T special : {std::numeric_limits<T>::quiet_NaN(), std::numeric_limits<T>::infinity()}) {
            Matrix<T> x(size.n, size.in);   // all zeros: 0 * infinity is NaN, so that skipping zeros would show
            Matrix<T> w = random_matrix<T>(size.out, size.in, 2);
            Matrix<T> dy(size.n, size.out);
            w(size.out - 1, size.in - 1) = special;
            Matrix<T> y(size.n, size.out), dx(size.n, size.in), dw(size.out, size.in);
            multiply_nt(x, w, y);
            multiply_nn(dy, w, dx);
            bool right = true;
            for (std::size_t i = 0; i < size.n; ++i) {
                for (std::size_t j = 0; j < size.out; ++j) right = right && std::isnan(y(i, j)) == (j == size.out - 1);
                for (std::size_t j = 0; j < size.in; ++j) right = right && std::isnan(dx(i, j)) == (j == size.in - 1);
            }
            x(size.n - 1, 0) = special;
            multiply_tn(dy, x, dw);
            for (std::size_t i = 0; i < size.out; ++i) {
                for (std::size_t j = 0; j < size.in; ++j) right = right && std::isnan(dw(i, j)) == (j == 0);
            }
            CHECK(right);
        }
    }
}
