#include "support/catch.hpp"

#include <peft/io/safetensors.hpp>

#include <bit>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <limits>
#include <string>
#include <vector>

#include "io/scratch.hpp"

using namespace peft;
using peft::io::Dtype;
using peft::io::SafetensorsFile;
using peft::io::TensorData;
using peft::test::Scratch;
using peft::test::tensor_file;

namespace {

template <class T> std::span<const std::byte> bytes_of(const std::vector<T>& values) { return std::as_bytes(std::span(values)); }

template <class F> std::string refusal(F&& f) {
    try {
        f();
    } catch (const Error& error) {
        CHECK(test::fit_for_a_log(error.what()));
        return error.what();
    }
    return "accepted";
}

/// A small file with tensors of several sizes, a name that needs an escape, and two metadata keys.
void write_example(const std::string& path) {
    const std::vector<float> a{1, 2, 3, 4, 5, 6};
    const std::vector<std::int64_t> b{-1, 7};
    const std::vector<bfloat16> c{round_to<bfloat16>(1.5f), round_to<bfloat16>(-2.0f)};
    const std::vector<TensorData> tensors{{"layer.a", Dtype::F32, {2, 3}, bytes_of(a)},
                                          {"b\"\n", Dtype::I64, {2}, bytes_of(b)},
                                          {"c", Dtype::BF16, {1, 2}, bytes_of(c)},
                                          {"empty", Dtype::F16, {0, 3}, {}}};
    io::write_safetensors(path, tensors, {{"format", "pt"}, {"note", "x"}});
}

std::string opened(const std::string& path) {
    return refusal([&] { SafetensorsFile file(path); });
}

}  // namespace

TEST_CASE("safetensors: a file is laid out as the reference writer does") {
    const Scratch scratch;
    const std::vector<float> f{1.0f, 2.0f};
    const std::vector<double> d{3.0};
    const std::vector<std::int32_t> i{5};
    const std::vector<TensorData> tensors{{"f", Dtype::F32, {2}, bytes_of(f)},
                                          {"d", Dtype::F64, {}, bytes_of(d)},
                                          {"e", Dtype::I32, {1, 1}, bytes_of(i)}};
    io::write_safetensors(scratch / "a", tensors);
    std::string header = R"({"__metadata__":{"format":"pt"},"d":{"dtype":"F64","shape":[],"data_offsets":[0,8]},)"
                         R"("e":{"dtype":"I32","shape":[1,1],"data_offsets":[8,12]},"f":{"dtype":"F32","shape":[2],"data_offsets":[12,20]}})";
    header.append((8 - header.size() % 8) % 8, ' ');
    std::string data(20, '\0');
    std::memcpy(data.data(), d.data(), 8);
    std::memcpy(data.data() + 8, i.data(), 4);
    std::memcpy(data.data() + 12, f.data(), 8);
    CHECK(test::contents(scratch / "a") == tensor_file(header, data));
}

TEST_CASE("safetensors: tensors and metadata come back, sorted by name") {
    const Scratch scratch;
    write_example(scratch / "a");
    const SafetensorsFile file(scratch / "a");
    REQUIRE(file.tensors().size() == 4);
    CHECK(file.tensors()[0].name == "b\"\n");
    CHECK(file.tensors()[3].name == "layer.a");
    CHECK(file.metadata() == io::Metadata{{"format", "pt"}, {"note", "x"}});
    CHECK(file.read_matrix<float>("layer.a")(1, 2) == 6.0f);
    CHECK(file.read_matrix<double>("c")(0, 1) == -2.0);
    std::vector<std::int64_t> b(2);
    file.read_values(file.at("b\"\n"), std::span(b));
    CHECK(b == std::vector<std::int64_t>{-1, 7});
    const Matrix<float> empty = file.read_matrix<float>("empty");
    CHECK(empty.rows() == 0);
    CHECK(empty.cols() == 3);
    CHECK(file.find("layer") == nullptr);
    CHECK_THROWS_WITH(file.read_bytes("layer"), Catch::Matchers::ContainsSubstring("layer: the file has no such tensor"));
}

TEST_CASE("safetensors: equal input gives equal bytes, in whatever order") {
    const Scratch scratch;
    write_example(scratch / "a");
    write_example(scratch / "b");
    const SafetensorsFile file(scratch / "a");
    CHECK(test::contents(scratch / "a") == test::contents(scratch / "b"));

    std::vector<std::vector<std::byte>> kept;
    std::vector<TensorData> tensors;
    for (const io::TensorInfo& info : file.tensors()) kept.push_back(file.read_bytes(info.name));
    for (std::size_t i = kept.size(); i-- > 0;) {
        const io::TensorInfo& info = file.tensors()[i];
        tensors.push_back({info.name, info.dtype, info.shape, kept[i]});
    }
    io::write_safetensors(scratch / "c", tensors, file.metadata());
    CHECK(test::contents(scratch / "a") == test::contents(scratch / "c"));
}

TEST_CASE("safetensors: writing onto the file that is being read from works") {
    const Scratch scratch;
    write_example(scratch / "a");
    const std::string before = test::contents(scratch / "a");
    const SafetensorsFile file(scratch / "a");
    const auto bytes = file.read_bytes("c");
    io::write_safetensors(scratch / "a", std::vector<TensorData>{{"c", Dtype::BF16, {2}, bytes}});
    CHECK(file.read_matrix<float>("layer.a")(0, 1) == 2.0f);   // the old file, still open
    CHECK(SafetensorsFile(scratch / "a").tensors().size() == 1);
    CHECK(test::contents(scratch / "a") != before);
    CHECK(scratch.names().size() == 1);
}

TEST_CASE("safetensors: what would not be a valid file is not written, and the old file stays") {
    const Scratch scratch;
    write_example(scratch / "a");
    const std::string before = test::contents(scratch / "a");
    const std::vector<float> two{1, 2};
    const auto bytes = bytes_of(two);
    const auto write = [&](std::vector<TensorData> tensors, const io::Metadata& metadata = {}) {
        return refusal([&] { io::write_safetensors(scratch / "a", tensors, metadata); });
    };
    CHECK_THAT(write({{"w", Dtype::F32, {3}, bytes}}), Catch::Matchers::ContainsSubstring("12 bytes for F32 [3], found 8"));
    CHECK_THAT(write({{"w", Dtype::F32, {2}, bytes}, {"v", Dtype::F32, {2}, bytes}, {"w", Dtype::F32, {2}, bytes}}),
               Catch::Matchers::ContainsSubstring("w: the tensor is given twice"));
    CHECK_THAT(write({{"__metadata__", Dtype::F32, {2}, bytes}}), Catch::Matchers::ContainsSubstring("__metadata__"));
    CHECK_THAT(write({{"\xff", Dtype::F32, {2}, bytes}}), Catch::Matchers::ContainsSubstring("UTF-8"));
    CHECK_THAT(write({{"w", Dtype::F32, {2}, bytes}}, {{"k", "\xff"}}), Catch::Matchers::ContainsSubstring("UTF-8"));
    CHECK_THAT(write({{"w", Dtype::F32, {std::size_t{1} << 62}, {}}}), Catch::Matchers::ContainsSubstring("overflows"));
    CHECK_THAT(write({{"w", Dtype::F4, {3}, bytes}}), Catch::Matchers::ContainsSubstring("whole bytes"));
    CHECK(test::contents(scratch / "a") == before);
    CHECK(scratch.names().size() == 1);
}

TEMPLATE_TEST_CASE("safetensors: numbers of every floating-point dtype are converted with one rounding", "", float, double, bfloat16, float16) {
    using T = TestType;
    const Scratch scratch;
    const std::vector<double> values{0.0, -0.0, 1.0, 1.0 / 3.0, 65504.0, 1e-7, 3e38, -1e300, std::numeric_limits<double>::infinity(), 0x1p-149,
                                     1.0 + 0x1p-11 + 0x1p-40, 1.0 + 0x1p-8 + 0x1p-40};   // by way of float these would be ties
    std::vector<double> f64 = values;
    std::vector<float> f32;
    std::vector<float16> f16;
    std::vector<bfloat16> bf16;
    for (const double value : values) {
        f32.push_back(round_to<float>(value));
        f16.push_back(round_to<float16>(value));
        bf16.push_back(round_to<bfloat16>(value));
    }
    const std::size_t n = values.size();
    io::write_safetensors(scratch / "a", std::vector<TensorData>{{"f64", Dtype::F64, {n}, bytes_of(f64)},
                                                                 {"f32", Dtype::F32, {n}, bytes_of(f32)},
                                                                 {"f16", Dtype::F16, {n}, bytes_of(f16)},
                                                                 {"bf16", Dtype::BF16, {n}, bytes_of(bf16)}});
    const SafetensorsFile file(scratch / "a");
    const auto check = [&](const char* name, const auto& source) {
        const Matrix<T> read = file.read_matrix<T>(name);
        REQUIRE(read.rows() == 1);
        REQUIRE(read.cols() == n);
        for (std::size_t i = 0; i < n; ++i) {
            CAPTURE(name, i);
            const T expected = round_to<T>(widen(source[i]));
            CHECK(std::memcmp(&read(0, i), &expected, sizeof(T)) == 0);
        }
    };
    check("f64", f64);
    check("f32", f32);
    check("f16", f16);
    check("bf16", bf16);
}

TEST_CASE("safetensors: a tensor longer than the conversion buffer is converted whole") {
    const Scratch scratch;
    std::vector<float> values(200'001);
    for (std::size_t i = 0; i < values.size(); ++i) values[i] = static_cast<float>(i);
    io::write_safetensors(scratch / "a", std::vector<TensorData>{{"w", Dtype::F32, {3, 66667}, bytes_of(values)}});
    const Matrix<double> read = SafetensorsFile(scratch / "a").read_matrix<double>("w");
    bool same = true;
    for (std::size_t i = 0; i < values.size(); ++i) same = same && read.data()[i] == static_cast<double>(i);
    CHECK(same);
}

TEST_CASE("safetensors: NaN payloads, minus zero and subnormals keep their bits") {
    const Scratch scratch;
    const std::vector<std::uint32_t> bits{0x7fc00001, 0x7f800001, 0xff800000, 0x80000000, 1, 0x7f7fffff};
    io::write_safetensors(scratch / "a", std::vector<TensorData>{{"w", Dtype::F32, {6}, bytes_of(bits)}});
    const Matrix<float> read = SafetensorsFile(scratch / "a").read_matrix<float>("w");
    CHECK(std::memcmp(read.data(), bits.data(), 24) == 0);
}

TEST_CASE("safetensors: shapes become matrices, and more than two dimensions are refused by name") {
    const Scratch scratch;
    const std::vector<float> six{1, 2, 3, 4, 5, 6};
    io::write_safetensors(scratch / "a", std::vector<TensorData>{{"v", Dtype::F32, {6}, bytes_of(six)},
                                                                 {"s", Dtype::F32, {}, bytes_of(six).first(4)},
                                                                 {"t", Dtype::F32, {1, 2, 3}, bytes_of(six)},
                                                                 {"i", Dtype::I8, {24}, bytes_of(six)},
                                                                 {"f8", Dtype::F8_E4M3, {24}, bytes_of(six)},
                                                                 {"f4", Dtype::F4, {48}, bytes_of(six)}});
    const SafetensorsFile file(scratch / "a");
    CHECK(file.read_matrix<float>("v").cols() == 6);
    CHECK(file.read_matrix<float>("s").size() == 1);
    CHECK_THAT(refusal([&] { file.read_matrix<float>("t"); }), Catch::Matchers::ContainsSubstring("t: the tensor is no matrix") && Catch::Matchers::ContainsSubstring("[1, 2, 3]"));
    std::vector<float> flat(6);
    file.read_values(file.at("t"), std::span(flat));
    CHECK(flat == six);
    CHECK_THAT(refusal([&] { file.read_matrix<float>("i"); }), Catch::Matchers::ContainsSubstring("found I8"));
    CHECK_THAT(refusal([&] { file.read_matrix<float>("f8"); }), Catch::Matchers::ContainsSubstring("found F8_E4M3"));
    CHECK_THAT(refusal([&] { file.read_matrix<float>("f4"); }), Catch::Matchers::ContainsSubstring("found F4"));
    CHECK(file.read_bytes("f4").size() == 24);
    std::vector<std::int64_t> wide(24);
    CHECK_THAT(refusal([&] { file.read_values(file.at("i"), std::span(wide)); }), Catch::Matchers::ContainsSubstring("expected I64, found I8"));
    std::vector<float> short_memory(5);
    CHECK_THROWS_AS(file.read_values(file.at("v"), std::span(short_memory)), ShapeError);
    std::vector<double> short_double(5);
    CHECK_THROWS_AS(file.read_values(file.at("v"), std::span(short_double)), ShapeError);
}

TEST_CASE("safetensors: a file cut anywhere is refused") {
    const Scratch scratch;
    write_example(scratch / "whole");
    const std::string whole = test::contents(scratch / "whole");
    for (std::size_t length = 0; length < whole.size(); ++length) {
        test::store(scratch / "cut", std::string_view(whole).substr(0, length));
        INFO(length);
        if (opened(scratch / "cut") == "accepted") FAIL("accepted");
    }
    test::store(scratch / "cut", whole + '\0');
    CHECK_THAT(opened(scratch / "cut"), Catch::Matchers::ContainsSubstring("1 too many"));
}

TEST_CASE("safetensors: a name given twice is refused where the layout is in order too") {
    const Scratch scratch;
    test::store(scratch / "a", tensor_file(R"({"w":{"dtype":"U8","shape":[2],"data_offsets":[0,2]},"\u0077":{"dtype":"U8","shape":[2],"data_offsets":[2,4]}})", "abcd"));
    CHECK_THAT(opened(scratch / "a"), Catch::Matchers::ContainsSubstring("w: the tensor is given twice"));
}

TEST_CASE("safetensors: any one bit of the header flipped gives a refusal or a consistent table") {
    const Scratch scratch;
    write_example(scratch / "whole");
    const std::string whole = test::contents(scratch / "whole");
    std::uint64_t header = 0;
    std::memcpy(&header, whole.data(), 8);
    std::size_t refused = 0;
    test::store(scratch / "changed", whole);
    for (std::size_t bit = 0; bit < (8 + header) * 8; ++bit) {
        const auto put = [&](char byte) {
            std::fstream file(scratch / "changed", std::ios::binary | std::ios::in | std::ios::out);
            file.seekp(static_cast<std::streamoff>(bit / 8));
            file.put(byte);
        };
        put(static_cast<char>(whole[bit / 8] ^ (1 << (bit % 8))));
        INFO("bit " << bit);
        try {
            const SafetensorsFile file(scratch / "changed");
            std::uint64_t total = 0;
            for (const io::TensorInfo& info : file.tensors()) {
                total += info.byte_count();
                std::uint64_t elements = 1;
                for (const std::size_t dimension : info.shape) elements *= dimension;
                if (elements * io::dtype_bits(info.dtype) != info.byte_count() * 8) FAIL("size");
                if (file.read_bytes(info.name).size() != info.byte_count()) FAIL("bytes");
            }
            if (total != whole.size() - 8 - header) FAIL("bytes that belong to nobody");
        } catch (const FormatError& error) {
            ++refused;
            if (!test::fit_for_a_log(error.what())) FAIL("message");
        }
        put(whole[bit / 8]);
    }
    CHECK(test::contents(scratch / "changed") == whole);
    CHECK(refused > 8 * header / 2);
}

TEST_CASE("safetensors: the longest header is read, one byte more is refused") {
    const Scratch scratch;
    std::string header = "{}" + std::string(99'999'998, ' ');
    test::store(scratch / "a", tensor_file(header, ""));
    CHECK(opened(scratch / "a") == "accepted");
    test::store(scratch / "a", tensor_file(header + ' ', ""));
    CHECK_THAT(opened(scratch / "a"), Catch::Matchers::ContainsSubstring("at most 100000000, found 100000001"));
}

TEST_CASE("safetensors: dimensions are taken up to 1024 and refused beyond") {
    const Scratch scratch;
    const auto with_rank = [&](int rank) {
        std::string header = R"({"w":{"dtype":"U8","data_offsets":[0,1],"shape":[1)";
        for (int i = 1; i < rank; ++i) header += ",1";
        test::store(scratch / "a", tensor_file(header + "]}}", "x"));
        return opened(scratch / "a");
    };
    CHECK(with_rank(1024) == "accepted");
    CHECK_THAT(with_rank(1025), Catch::Matchers::ContainsSubstring("w: the tensor has too many dimensions (expected at most 1024"));
}

TEST_CASE("safetensors: accepted though unusual: white space before, unknown fields, odd names, no metadata") {
    const Scratch scratch;
    const auto check = [&](const std::string& header, const std::string& name) {
        test::store(scratch / "a", tensor_file(header, "abcd"));
        const SafetensorsFile file(scratch / "a");
        CHECK(file.tensors().size() == 1);
        CHECK(file.find(name) != nullptr);
    };
    check(" \n\t{\"w\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]}}", "w");
    check(R"({"":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}})", "");
    check(R"({"\u0000":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}})", std::string(1, '\0'));
    check(R"({"w":{"a":{"b":[{}]},"dtype":"F32","shape":[1],"c":1.5,"data_offsets":[0,4],"d":null},"__metadata__":null})", "w");
    check("{\"" + std::string(60'000, 'n') + "\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]}}", std::string(60'000, 'n'));
}

TEST_CASE("safetensors: names from a file are shown escaped and shortened") {
    const Scratch scratch;
    const auto message = [&](const std::string& name) {
        test::store(scratch / "a", tensor_file("{\"" + name + R"(":{"dtype":"F32","shape":[2],"data_offsets":[0,4]}})", "abcd"));
        return opened(scratch / "a");   // which checks that it is one printable line
    };
    CHECK_THAT(message("a\\u001b[31mb\\n"), Catch::Matchers::ContainsSubstring("a\\x1b[31mb\\n: shape"));
    CHECK_THAT(message(""), Catch::Matchers::ContainsSubstring("tensor \"\""));
    CHECK(message(std::string(60'000, 'n')).size() < 1024);
}

TEST_CASE("safetensors: files of another kind are recognised") {
    const Scratch scratch;
    const auto message = [&](const std::string& start) {
        test::store(scratch / "a", start + std::string(40, '\x20'));
        return opened(scratch / "a");
    };
    CHECK_THAT(message("version https://git-lfs.github.com/spec/v1"), Catch::Matchers::ContainsSubstring("Git LFS"));
    CHECK_THAT(message("PK\x03\x04"), Catch::Matchers::ContainsSubstring("zip archive"));
    CHECK_THAT(message("\x80\x02}q"), Catch::Matchers::ContainsSubstring("pickle"));
    CHECK_THAT(message("GGUF"), Catch::Matchers::ContainsSubstring("GGUF"));
    CHECK_THAT(message("<!DOCTYPE html>"), Catch::Matchers::ContainsSubstring("HTML"));
    CHECK_THAT(message("{\"metadata\""), Catch::Matchers::ContainsSubstring("JSON text"));
}

TEST_CASE("safetensors: a hundred thousand tensors are read in time that grows with their number only") {
    const Scratch scratch;
    std::string header = "{\"__metadata__\":{";
    for (long i = 0; i < 100'000; ++i) header.append(i == 0 ? "\"m" : ",\"m").append(std::to_string(i * 7919 % 100'003)).append("\":\"\"");
    header += '}';
    for (long i = 0; i < 100'000; ++i) {
        header.append(",\"t").append(std::to_string(i * 7919 % 100'003)).append("\":{\"dtype\":\"U8\",\"shape\":[0],\"data_offsets\":[0,0]}");
    }
    test::store(scratch / "a", tensor_file(header + '}', ""));
    const SafetensorsFile file(scratch / "a");
    CHECK(file.tensors().size() == 100'000);
    CHECK(file.metadata().size() == 100'000);
}

TEST_CASE("safetensors: opening does not depend on the size of the file") {
    const Scratch scratch;
    test::store(scratch / "a", tensor_file(R"({"w":{"dtype":"U8","shape":[1099511627776],"data_offsets":[0,1099511627776]}})", ""));
    std::filesystem::resize_file(scratch / "a", std::filesystem::file_size(scratch / "a") + (std::uintmax_t{1} << 40));
    CHECK(SafetensorsFile(scratch / "a").at("w").byte_count() == std::uint64_t{1} << 40);
}

TEST_CASE("safetensors: a file that shrinks after it was opened is an error, not a crash") {
    const Scratch scratch;
    write_example(scratch / "a");
    const SafetensorsFile file(scratch / "a");
    std::filesystem::resize_file(scratch / "a", 100);
    CHECK_THROWS_AS(file.read_bytes("layer.a"), FileError);
}

TEST_CASE("safetensors: names and sizes of dtypes are those of the format") {
    CHECK(io::dtype_name(io::dtype_of<float>()) == "F32");
    CHECK(io::dtype_name(io::dtype_of<double>()) == "F64");
    CHECK(io::dtype_name(io::dtype_of<bfloat16>()) == "BF16");
    CHECK(io::dtype_name(io::dtype_of<float16>()) == "F16");
    CHECK(io::dtype_name(io::dtype_of<std::int32_t>()) == "I32");
    CHECK(io::dtype_name(io::dtype_of<std::int64_t>()) == "I64");
    CHECK(io::dtype_name(io::dtype_of<std::uint8_t>()) == "U8");
    CHECK(io::dtype_name(Dtype::BOOL) == "BOOL");
    CHECK(io::dtype_name(Dtype::U64) == "U64");
    CHECK(io::dtype_size(Dtype::C64) == 8);
    CHECK(io::dtype_size(Dtype::F4) == 0);
    CHECK(io::dtype_bits(Dtype::F6_E2M3) == 6);
    CHECK(io::dtype_size(Dtype::F8_E5M2) == 1);
}
