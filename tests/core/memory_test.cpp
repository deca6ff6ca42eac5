#include "support/catch.hpp"

#include <peft/core/arena.hpp>
#include <peft/core/matrix.hpp>
#include <peft/core/matrix_access.hpp>
#include <peft/core/parameter.hpp>
#include <peft/core/strided_view.hpp>

#include <cstdint>
#include <limits>
#include <utility>

using peft::Arena;
using peft::ArenaScope;
using peft::Matrix;
using peft::MatrixView;
using peft::Parameter;
using peft::StridedView;

namespace {
template <class T> bool aligned(const T* data) { return reinterpret_cast<std::uintptr_t>(data) % 64 == 0; }
// volatile: g++ 12 would otherwise follow the size past the check that throws, and warn
volatile std::size_t huge_source = std::numeric_limits<std::size_t>::max() / 2;
const std::size_t huge = huge_source;
}  // namespace

TEST_CASE("arena: memory is aligned, disjoint, given back in order, and kept for the next time") {
    Arena arena;
    std::size_t capacity = 0;
    const float* first_pass[40] = {};
    for (int pass = 0; pass < 3; ++pass) {
        arena.reset();
        for (std::size_t k = 0; k < 40; ++k) {
            const std::size_t count = 1 + 377 * k;
            const auto values = arena.vector<float>(count);
            REQUIRE(values.size() == count);
            REQUIRE(aligned(values.data()));
            for (float& value : values) value = static_cast<float>(k);
            if (pass == 0) first_pass[k] = values.data();
            else if (pass == 2) CHECK(values.data() == first_pass[k]);
        }
        for (std::size_t k = 0; k < 40; ++k) CHECK((first_pass[k][0] == static_cast<float>(k) && first_pass[k][377 * k] == static_cast<float>(k)));
        if (pass == 1) capacity = arena.capacity();
        if (pass == 2) CHECK(arena.capacity() == capacity);
    }
    float* again = nullptr;
    {
        ArenaScope scope(arena);
        again = scope.matrix<float>(10, 10).data();
    }
    ArenaScope scope(arena);
    CHECK(scope.matrix<float>(3, 3).data() == again);
    CHECK(scope.vector<double>(0).empty());
    CHECK_THROWS_AS(scope.matrix<double>(huge, 3), peft::ShapeError);
    CHECK_THROWS_AS(scope.vector<double>(huge), peft::ShapeError);

    Arena moved = std::move(arena);
    CHECK(moved.capacity() == capacity);
    CHECK(arena.capacity() == 0);
    arena = std::move(moved);
    CHECK(arena.capacity() == capacity);
}

TEST_CASE("matrix: starts at zero, aligned and contiguous, and copies deeply") {
    Matrix<double> a(3, 5);
    CHECK(aligned(a.data()));
    for (const double value : std::as_const(a).flat()) CHECK(value == 0);
    a(2, 4) = 7;
    CHECK(a.data()[14] == 7);
    Matrix<double> b = a;
    b(2, 4) = 8;
    CHECK(a(2, 4) == 7);
    a = b;
    CHECK(a(2, 4) == 8);
    const double* data = a.data();
    Matrix<double> c = std::move(a);
    CHECK(c.data() == data);
    CHECK(a.empty());
    CHECK(a.rows() == 0);
    c = c.view().rows(1, 2).rows() == 2 ? Matrix<double>(MatrixView<const double>(c.rows(1, 2))) : c;   // from a view of itself
    CHECK((c.rows() == 2 && c(1, 4) == 8));
    CHECK(Matrix<float>(0, 5).data() == nullptr);
    CHECK(Matrix<float>(0, 5).cols() == 5);
    CHECK_THROWS_AS(Matrix<double>(huge, huge), peft::ShapeError);
    CHECK_THROWS_AS(Matrix<double>(huge, 1), peft::ShapeError);
    CHECK_THROWS_AS(c.copy_from(Matrix<double>(3, 5)), peft::ShapeError);
    CHECK(c(1, 4) == 8);

    const MatrixView<double> block = c.view().block(1, 2, 1, 3);
    CHECK(block(0, 2) == 8);
    CHECK(block.stride() == 5);
    Matrix<double> copy(MatrixView<const double>(c.view().block(0, 3, 2, 2)));
    CHECK(copy(1, 1) == 8);
}

TEST_CASE("views: strided views see both storage orders of one memory") {
    Matrix<float> a(3, 4);
    for (std::size_t i = 0; i < 12; ++i) a.data()[i] = static_cast<float>(i);
    const StridedView<float> rows = a.view();
    const StridedView<float> columns = rows.transposed();
    CHECK(rows.is_row_major());
    CHECK_FALSE(columns.is_row_major());
    CHECK((columns.rows() == 4 && columns.cols() == 3));
    CHECK(columns(1, 2) == a(2, 1));
    CHECK(columns.rows(2, 2)(0, 1) == a(1, 2));
    CHECK(columns.transposed().row_major()(2, 3) == 11);
    const StridedView<const float> read_only = columns;
    CHECK(read_only(3, 0) == 3);
    CHECK(StridedView<float>(a.data(), 3, 1, 4, 9).is_row_major());    // a single column has no inner stride
    CHECK(peft::detail::is_matrix_v<Matrix<float>&>);
    CHECK_FALSE(peft::detail::is_matrix_v<int>);
}

TEST_CASE("parameter: versions rise with every write, copies have their own numbers, the state stays where it is") {
    Parameter<float> p(2, 3);
    CHECK(p.version() == 0);
    Matrix<float> values(2, 3);
    values(1, 2) = 4;
    p.assign(values);
    CHECK(p.version() == 1);
    CHECK_THROWS_AS(p.assign(Matrix<float>(3, 2)), peft::ShapeError);
    CHECK(p.version() == 1);
    CHECK(p.grad().empty());
    p.require_grad();
    p.grad()(1, 2) = 9;
    p.require_grad();
    CHECK(p.grad()(1, 2) == 9);

    Parameter<float> copy = p;
    CHECK(copy.version() == 1);
    CHECK(copy.grad().empty());
    copy.value()(1, 2) = 5;
    CHECK(p.value()(1, 2) == 4);

    const auto state = p.state();
    const peft::ParameterRef<float> ref{"p", state};
    Parameter<float> moved = std::move(p);
    ref.touch();
    CHECK(moved.version() == 2);
    CHECK(ref.value().data() == moved.value().data());
    CHECK(ref.size() == 6);
    CHECK(peft::detail::shape_text(peft::TensorShape::of(4, 16)) == "[4, 16]");
}
