#include <peft/adapters/sparse/sara.hpp>
#include <peft/io/load.hpp>
#include <peft/io/save.hpp>
#include <peft/linear/dense.hpp>

#include "io/scratch.hpp"
#include "support/catch.hpp"

#include <cstdint>
#include <string>
#include <vector>

using namespace peft;
using peft::test::Scratch;

namespace {

constexpr LayerShape shape{5, 4};

/// An adapter directory of the module "fc" with these tensors.
struct Directory {
    Scratch scratch;
    std::vector<float> values{1, -2, 4};
    std::vector<std::int32_t> indices{0, 7, 19};
    std::vector<std::size_t> values_shape{3}, indices_shape{3};
    bool indices_as_float = false;
    bool without_indices = false;

    io::LoadedAdapter<float> load() {
        std::vector<io::TensorData> tensors(without_indices ? 1 : 2);
        tensors[0].name = "base_model.model.fc.sara_values";
        tensors[0].dtype = io::dtype_of<float>();
        tensors[0].shape.assign(values_shape.begin(), values_shape.end());
        tensors[0].bytes = std::as_bytes(std::span<const float>(values));
        if (!without_indices) {
            tensors[1].name = "base_model.model.fc.sara_indices";
            tensors[1].dtype = indices_as_float ? io::dtype_of<float>() : io::dtype_of<std::int32_t>();
            tensors[1].shape.assign(indices_shape.begin(), indices_shape.end());
            tensors[1].bytes = std::as_bytes(std::span<const std::int32_t>(indices));
        }
        io::write_safetensors(scratch / "adapter_model.safetensors", tensors);
        test::store(scratch / "adapter_config.json", R"({"peft_type": "X_SARA", "target_modules": ["fc"], "threshold": 0.01, "share": 0.0})");
        return io::load_adapter<float>(scratch / ".");
    }
    /// The error of making the method; the loaded adapter then is as if nothing had been asked of it.
    std::string error() {
        auto loaded = load();
        std::string text;
        try {
            static_cast<void>(loaded.method("fc", shape));
        } catch (const FormatError& error) {
            text = error.what();
        }
        CHECK(loaded.left_over().size() == (without_indices ? 1 : 2));
        return text;
    }
};

}  // namespace

TEST_CASE("sara: what a file holds is put on any base, without reading it") {
    Directory directory;
    auto loaded = directory.load();
    DenseLinear<float> base(shape);
    for (std::size_t i = 0; i < base.stored().size(); ++i) base.stored().data()[i] = static_cast<float>(i);
    const Matrix<float> before = base.stored();
    auto layer = loaded.attach("fc", base);
    loaded.finish();
    layer.merge();
    for (std::size_t i = 0; i < before.size(); ++i) {
        const float change = i == 0 ? 1.0f : i == 7 ? -2.0f : i == 19 ? 4.0f : 0.0f;
        CHECK(base.stored().data()[i] == before.data()[i] + change);
    }
    layer.unmerge();
    const auto* method = layer.method().get_if<SaRA<float>>();
    REQUIRE(method != nullptr);
    CHECK(method->selection().selected == 3);
    CHECK(method->options().threshold == 0.01);
}

TEST_CASE("sara: a file without any position is an adapter that changes nothing") {
    Directory directory;
    directory.values.clear();
    directory.indices.clear();
    directory.values_shape = {0};
    directory.indices_shape = {0};
    auto loaded = directory.load();
    DenseLinear<float> base(shape);
    const auto layer = loaded.attach("fc", base);
    CHECK(layer.parameter_count().trained == 0);
    CHECK(layer.method().get_if<SaRA<float>>()->selection().selected == 0);
}

TEST_CASE("sara: positions that do not rise, leave the layer or do not match the numbers are refused by the tensor's name") {
    using Catch::Matchers::ContainsSubstring;
    const auto with = [](std::vector<std::int32_t> indices) {
        Directory directory;
        directory.indices = std::move(indices);
        return directory.error();
    };
    CHECK_THAT(with({0, 7, 7}), ContainsSubstring("fc.sara_indices") && ContainsSubstring("7 at place 2, after 7") && ContainsSubstring("below 20"));
    CHECK_THAT(with({7, 0, 19}), ContainsSubstring("fc.sara_indices") && ContainsSubstring("0 at place 1, after 7"));
    CHECK_THAT(with({0, 7, 20}), ContainsSubstring("fc.sara_indices") && ContainsSubstring("20 at place 2"));
    CHECK_THAT(with({-1, 7, 19}), ContainsSubstring("fc.sara_indices") && ContainsSubstring("-1 at place 0"));

    Directory longer;
    longer.indices = {0, 7, 18, 19};
    longer.indices_shape = {4};
    CHECK_THAT(longer.error(), ContainsSubstring("fc.sara_values") && ContainsSubstring("[4]") && ContainsSubstring("[3]"));
    Directory matrix;
    matrix.indices_shape = {3, 1};
    CHECK_THAT(matrix.error(), ContainsSubstring("fc.sara_indices") && ContainsSubstring("one dimension"));
    Directory numbers;
    numbers.indices_as_float = true;
    CHECK_THAT(numbers.error(), ContainsSubstring("fc.sara_indices") && ContainsSubstring("I32"));
    Directory alone;
    alone.without_indices = true;
    CHECK_THAT(alone.error(), ContainsSubstring("missing") && ContainsSubstring("fc.sara_indices"));
}
