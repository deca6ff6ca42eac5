#include <peft/kernels/low_rank.hpp>

#include "support/catch.hpp"
#include "support/guarded.hpp"
#include "support/reference.hpp"

#include <cmath>
#include <limits>
#include <utility>
#include <vector>

using namespace peft;
using namespace peft::test;

namespace {

struct Sizes {
    std::size_t n, in, rank;
};
const Sizes all_sizes[] = {{1, 1, 1},    {3, 7, 2},      {5, 16, 4},    {9, 17, 8},   {33, 50, 3},  {70, 65, 16}, {20, 300, 17},
                           {130, 200, 8}, {140, 1100, 5}, {66, 2050, 33}, {0, 5, 2},    {5, 0, 2},    {5, 5, 0}};
const DropoutMask masks[] = {{}, {{.seed = 9, .stream = 4, .purpose = Purpose::dropout, .step = 7}, 0.3}};

/// The mask as the definition has it: one call of the scalar generator an element.
template <class T> long double factor(const DropoutMask& mask, std::size_t index) {
    if (!mask.active()) return 1;
    const CounterRandom random(mask.key);
    return random.bits(index) >= mask.threshold() ? static_cast<long double>(static_cast<T>(1 / (1 - mask.probability))) : 0.0L;
}

template <class T> Matrix<T> random_matrix(std::size_t rows, std::size_t cols, std::uint64_t seed) {
    return Matrix<T>(Guarded<T>(rows, cols).randomize(seed).read());
}

}  // namespace

TEMPLATE_TEST_CASE("the low-rank products agree with the plain loop, with and without dropout", "", float, double) {
    using T = TestType;
    std::size_t index = 0;
    for (const Sizes size : all_sizes) {
        for (const DropoutMask& mask : masks) {
            const Placement placement = index % 2 == 0 ? Placement{} : Placement{1, 3};
            ++index;
            const auto [n, in, rank] = size;
            INFO("n " << n << ", in " << in << ", rank " << rank << ", p " << mask.probability);
            Guarded<T> x(n, in, placement), a(rank, in, placement), h(n, rank, placement), b(in, rank, placement);
            Guarded<T> u(n, rank, placement), da(rank, in, placement), dx(n, in, placement), y(n, in, placement);
            x.randomize(1);
            a.randomize(2);
            h.randomize(3);
            b.randomize(4);
            da.randomize(5);
            dx.randomize(6);
            y.randomize(7);
            const auto xv = x.read(), av = a.read(), hv = h.read(), bv = b.read();
            const auto kept = [&](std::size_t i, std::size_t j) { return factor<T>(mask, i * xv.cols() + j); };
            const Expected wanted_u = expected_product(
                n, rank, in, 1, [&](auto i, auto k) { return exact(xv(i, k)) * kept(i, k); }, [&](auto k, auto j) { return exact(av(j, k)); });
            Expected wanted_da = expected_product(
                rank, in, n, 1, [&](auto i, auto k) { return exact(hv(k, i)); }, [&](auto k, auto j) { return exact(xv(k, j)) * kept(k, j); });
            Expected wanted_dx(n, in);
            wanted_dx.terms = rank + 1;
            Expected wanted_y = expected_product(
                n, in, rank, -0.5L, [&](auto i, auto k) { return exact(hv(i, k)); }, [&](auto k, auto j) { return exact(bv(j, k)); });
            for (std::size_t i = 0; i < n; ++i) {
                for (std::size_t j = 0; j < in; ++j) {
                    wanted_dx.add(i, j, exact(dx.read()(i, j)));
                    for (std::size_t k = 0; k < rank; ++k) wanted_dx.add(i, j, exact(hv(i, k)) * exact(av(k, j)) * kept(i, j));
                    wanted_y.add(i, j, exact(y.read()(i, j)));
                }
            }
            for (std::size_t i = 0; i < rank; ++i)
                for (std::size_t j = 0; j < in; ++j) wanted_da.add(i, j, exact(da.read()(i, j)));
            wanted_da.terms += 2;

            low_rank_down(xv, mask, av, u.view());
            low_rank_down_gradient(hv, xv, mask, da.view());
            low_rank_down_input_gradient(hv, av, mask, dx.view());
            low_rank_up(hv, bv, T{-0.5}, y.view());
            CHECK(difference(u.read(), wanted_u) == "");
            CHECK(difference(da.read(), wanted_da) == "");
            CHECK(difference(dx.read(), wanted_dx) == "");
            CHECK(difference(y.read(), wanted_y) == "");
            CHECK((u.intact() && da.intact() && dx.intact() && y.intact() && x.intact() && a.intact() && h.intact() && b.intact()));
        }
    }
}

TEMPLATE_TEST_CASE("the mask has the bits of the scalar generator, also where 32 bits of the counter run over", "", float, double) {
    using T = TestType;
    const DropoutMask mask = masks[1];
    const CounterRandom random(mask.key);
    // rows of 2^27 - 5 numbers: the matrix itself is never made, only a block that lies across index 2^32
    const std::size_t in = (std::size_t{1} << 27) - 5, row = 32, col = 140;
    REQUIRE(row * in + col < (std::uint64_t{1} << 32));
    REQUIRE(row * in + col + 50 > (std::uint64_t{1} << 32));
    for (const std::size_t cols : {std::size_t{1}, std::size_t{7}, std::size_t{50}, std::size_t{131}}) {
        Guarded<T> x(3, cols, {1, 2}), masked(3, cols, {3, 1});
        for (std::size_t i = 0; i < 3; ++i)
            for (std::size_t j = 0; j < cols; ++j) x.view()(i, j) = T{1};
        detail::apply_mask<T, false>(random, mask, row, col, in, x.read(), masked.view());
        bool right = true;
        for (std::size_t i = 0; i < 3; ++i) {
            for (std::size_t j = 0; j < cols; ++j) {
                const bool kept = random.bits(std::uint64_t{row + i} * in + col + j) >= mask.threshold();
                right = right && masked.read()(i, j) == (kept ? static_cast<T>(1 / (1 - mask.probability)) : T{0});
            }
        }
        CHECK(right);
        CHECK(masked.intact());
    }
}

TEMPLATE_TEST_CASE("a dropped element contributes nothing, even if it is not finite", "", float, double) {
    using T = TestType;
    const DropoutMask mask = masks[1];
    const CounterRandom random(mask.key);
    Matrix<T> x(20, 100), a(4, 100), u(20, 4);
    for (T& value : a.flat()) value = T{1};
    for (std::size_t i = 0; i < x.size(); ++i)
        if (random.bits(i) < mask.threshold()) x.data()[i] = std::numeric_limits<T>::quiet_NaN();
    low_rank_down(x, mask, a, u.view());
    bool zero = true;
    for (const T value : u.flat()) zero = zero && value == T{0};
    CHECK(zero);
}

TEST_CASE("a dropout mask keeps the fraction that it promises") {
    const DropoutMask half{{.seed = 1}, 0.5}, none{{.seed = 1}, 0};
    CHECK(half.threshold() == 0x80000000u);
    CHECK(half.scale() == 2);
    CHECK(!none.active());
    CHECK(none.threshold() == 0);
    const std::size_t n = 100, in = 1000;
    Matrix<float> x(n, in), a(1, in), u(n, 1);
    for (float& value : x.flat()) value = 1;
    for (float& value : a.flat()) value = 1;
    low_rank_down(x, half, a, u.view());
    double kept = 0;
    for (const float value : u.flat()) kept += static_cast<double>(value) / 2;
    // 5 standard deviations of a binomial count
    CHECK(std::fabs(kept - 0.5 * static_cast<double>(n * in)) < 5 * std::sqrt(0.25 * static_cast<double>(n * in)));
}

TEMPLATE_TEST_CASE("the low-rank products have the same bits for one and for two threads and for any number of other rows", "", float,
                   double) {
    using T = TestType;
    const std::size_t in = 1100;
    for (const std::size_t rank : {std::size_t{8}, std::size_t{20}}) {
        const std::size_t n = 200;
        const Matrix<T> x = random_matrix<T>(n, in, 1), a = random_matrix<T>(rank, in, 2), h = random_matrix<T>(n, rank, 3);
        const Matrix<T> b = random_matrix<T>(in, rank, 4);
        Matrix<T> u[2], da[2], dx[2], y[2];
        for (int run = 0; run < 2; ++run) {
            set_threads(run + 1);
            u[run] = Matrix<T>(n, rank);
            da[run] = Matrix<T>(rank, in);
            dx[run] = Matrix<T>(n, in);
            y[run] = Matrix<T>(n, in);
            low_rank_down(x, masks[1], a, u[run].view());
            low_rank_down_gradient(h, x, masks[1], da[run].view());
            low_rank_down_input_gradient(h, a, masks[1], dx[run].view());
            low_rank_up(h, b, T{2}, y[run].view());
        }
        set_threads(0);
        CHECK(same_bits<T>(u[0], u[1]));
        CHECK(same_bits<T>(da[0], da[1]));
        CHECK(same_bits<T>(dx[0], dx[1]));
        CHECK(same_bits<T>(y[0], y[1]));
        for (const std::size_t rows : {std::size_t{9}, std::size_t{57}, std::size_t{61}, std::size_t{131}}) {
            Matrix<T> part(rows, rank), dpart(rows, in);
            low_rank_down(x.rows(0, rows), masks[1], a, part.view());
            low_rank_down_input_gradient(h.rows(0, rows), a, masks[1], dpart.view());
            CHECK(same_bits<T>(part, std::as_const(u[0]).rows(0, rows)));
            CHECK(same_bits<T>(dpart, std::as_const(dx[0]).rows(0, rows)));
        }
    }
}
