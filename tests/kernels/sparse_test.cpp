#include <peft/kernels/sparse.hpp>

#include "support/catch.hpp"
#include "support/guarded.hpp"
#include "support/reference.hpp"

#include <algorithm>
#include <utility>
#include <vector>

using namespace peft;
using namespace peft::test;

namespace {

/// Positions of an out x in matrix: each with probability `density`; row 1 is full and row 2 empty where they exist.
struct Positions {
    std::size_t in;
    std::vector<std::int32_t> starts, indices;

    Positions(std::size_t out, std::size_t in_, double density, bool special) : in(in_), starts(1, 0) {
        const CounterRandom random({.seed = 3, .purpose = Purpose::data});
        for (std::size_t o = 0; o < out; ++o) {
            for (std::size_t i = 0; i < in; ++i) {
                const bool taken = special && o == 1 ? true : special && o == 2 ? false : random.uniform(o * in + i) < density;
                if (taken) indices.push_back(static_cast<std::int32_t>(o * in + i));
            }
            starts.push_back(static_cast<std::int32_t>(indices.size()));
        }
    }
    SparsePattern view() const { return {in, starts, indices}; }
    std::size_t row(std::size_t k) const { return static_cast<std::size_t>(indices[k]) / in; }
    std::size_t col(std::size_t k) const { return static_cast<std::size_t>(indices[k]) % in; }
};

struct Sizes {
    std::size_t n, in, out;
    double density;
};
const Sizes all_sizes[] = {{1, 1, 1, 1},      {1, 40, 7, 0.3},   {2, 17, 5, 0.5},    {3, 65, 20, 0.1},  {4, 7, 3, 0.4},     {5, 16, 16, 0.5},   {8, 33, 9, 0.2},
                           {15, 64, 70, 0.1}, {16, 15, 17, 0.5}, {17, 31, 65, 0.3},  {31, 20, 130, 0.1}, {32, 48, 12, 0.25}, {33, 50, 47, 0.05}, {64, 9, 4, 1},
                           {66, 90, 33, 0.1}, {100, 3, 66, 0.5}, {150, 70, 40, 0.1}, {0, 5, 4, 0.5},    {5, 6, 7, 0},       {1, 6, 7, 0},       {40, 513, 300, 0.1}};

}  // namespace

TEMPLATE_TEST_CASE("sparse products agree with plain loops", "", float, double) {
    using T = TestType;
    std::size_t index = 0;
    for (const Sizes& size : all_sizes) {
        const Placement placement = index++ % 2 == 0 ? Placement{} : Placement{1, 3};
        const auto [n, in, out, density] = size;
        INFO("n " << n << ", in " << in << ", out " << out << ", density " << density);
        const Positions positions(out, in, density, density > 0);
        const SparsePattern s = positions.view();
        Guarded<T> x(n, in, placement), dy(n, out, placement), y(n, out, placement), dx(n, in, placement);
        Guarded<T> values(1, s.count(), {placement.offset, 0}), gradient(1, s.count(), {placement.offset, 0});
        x.randomize(1);
        dy.randomize(2);
        y.randomize(3);
        dx.randomize(4);
        values.randomize(5);
        gradient.randomize(6);
        const auto xv = x.read(), dyv = dy.read(), vv = values.read();
        const long double scale = -0.75L;
        Expected wanted_y(n, out), wanted_dx(n, in), wanted_gradient(1, s.count());
        wanted_y.terms = in + 1;
        wanted_dx.terms = out + 1;
        wanted_gradient.terms = n + 1;
        for (std::size_t t = 0; t < n; ++t) {
            for (std::size_t o = 0; o < out; ++o) wanted_y.add(t, o, exact(y.read()(t, o)));
            for (std::size_t i = 0; i < in; ++i) wanted_dx.add(t, i, exact(dx.read()(t, i)));
            for (std::size_t k = 0; k < s.count(); ++k) {
                const std::size_t o = positions.row(k), i = positions.col(k);
                wanted_y.add(t, o, scale * exact(vv(0, k)) * exact(xv(t, i)));
                wanted_dx.add(t, i, scale * exact(vv(0, k)) * exact(dyv(t, o)));
                wanted_gradient.add(0, k, scale * exact(dyv(t, o)) * exact(xv(t, i)));
            }
        }
        for (std::size_t k = 0; k < s.count(); ++k) wanted_gradient.add(0, k, exact(gradient.read()(0, k)));

        sparse_forward<T>(s, values.read_span(), T(-0.75), xv, y.view());
        sparse_input_gradient<T>(s, values.read_span(), T(-0.75), dyv, dx.view());
        sparse_value_gradient<T>(s, T(-0.75), dyv, xv, gradient.span());
        CHECK(difference(y.read(), wanted_y) == "");
        CHECK(difference(dx.read(), wanted_dx) == "");
        CHECK(difference(gradient.read(), wanted_gradient) == "");
        CHECK((x.intact() && dy.intact() && y.intact() && dx.intact() && values.intact() && gradient.intact()));
    }
}

TEMPLATE_TEST_CASE("sparse products have the same bits on one thread and on several", "", float, double) {
    using T = TestType;
    for (const std::size_t n : {std::size_t{2}, std::size_t{20}, std::size_t{170}}) {
        INFO("n " << n);
        const Positions positions(700, 300, 0.5, true);
        const SparsePattern s = positions.view();
        Guarded<T> x(n, s.in), dy(n, s.out()), values(1, s.count());
        x.randomize(1);
        dy.randomize(2);
        values.randomize(3);
        Guarded<T> y[2] = {{n, s.out()}, {n, s.out()}}, dx[2] = {{n, s.in}, {n, s.in}}, gradient[2] = {{1, s.count()}, {1, s.count()}};
        for (int run = 0; run < 2; ++run) {
            set_threads(run == 0 ? 1 : 3);
            sparse_forward<T>(s, values.read_span(), T(1), x.read(), y[run].view());
            sparse_input_gradient<T>(s, values.read_span(), T(1), dy.read(), dx[run].view());
            sparse_value_gradient<T>(s, T(1), dy.read(), x.read(), gradient[run].span());
        }
        set_threads(0);
        CHECK(same_bits(y[0].read(), y[1].read()));
        CHECK(same_bits(dx[0].read(), dx[1].read()));
        CHECK(same_bits(gradient[0].read(), gradient[1].read()));
    }
}

TEMPLATE_TEST_CASE("an element of a value gradient has the same bits wherever it stands among the numbers of its row", "", float, double) {
    using T = TestType;
    const std::size_t n = 37, in = 70;
    const Positions all(3, in, 1, false);
    Positions few = all;
    few.indices = {5, 69, 70 + 33, 140, 141, 142, 143, 209};
    few.starts = {0, 2, 3, 8};
    Guarded<T> x(n, in), dy(n, 3), dense(1, all.indices.size()), picked(1, few.indices.size());
    x.randomize(1);
    dy.randomize(2);
    sparse_value_gradient<T>(all.view(), T(1), dy.read(), x.read(), dense.span());
    sparse_value_gradient<T>(few.view(), T(1), dy.read(), x.read(), picked.span());
    for (std::size_t k = 0; k < few.indices.size(); ++k) CHECK(picked.read()(0, k) == dense.read()(0, static_cast<std::size_t>(few.indices[k])));
}

TEMPLATE_TEST_CASE("scatter and gather are each other's inverse at the positions, and write zeros elsewhere", "", float, double) {
    using T = TestType;
    const Positions positions(9, 21, 0.3, true);
    const SparsePattern s = positions.view();
    Guarded<T> values(1, s.count()), back(1, s.count());
    values.randomize(1);
    for (const auto& [first, rows] : {std::pair<std::size_t, std::size_t>{0, 3}, {3, 1}, {4, 5}}) {
        Guarded<T> work(rows, s.in, {1, 2});
        work.randomize(2);
        sparse_scatter<T>(s, values.read_span(), T(2), first, work.view());
        CHECK(work.intact());
        Expected wanted(rows, s.in);
        for (std::size_t k = s.begin(first); k < s.begin(first + rows); ++k) wanted.add(positions.row(k) - first, positions.col(k), 2 * exact(values.read()(0, k)));
        CHECK(difference(work.read(), wanted) == "");
        sparse_gather<T>(s, first, work.read(), back.span());
    }
    for (std::size_t k = 0; k < s.count(); ++k) CHECK(back.read()(0, k) == 2 * values.read()(0, k));
    CHECK(back.intact());
}
