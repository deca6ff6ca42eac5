#include "support/catch.hpp"

#include <peft/io/json.hpp>
#include <peft/io/safetensors.hpp>

#include <algorithm>
#include <string>
#include <vector>

#include "io/scratch.hpp"

using namespace peft;
using peft::io::SafetensorsFile;

// Malformed and unusual tensor files, one fault each; manifest.json says of each whether it must be refused, which facts the
// message must show, and for the others exactly what they hold. Three large files are made here instead of kept.

namespace {

const std::string folder = std::string(PEFT_TEST_DATA) + "/io/badfiles/";

std::string hexadecimal(const std::vector<std::byte>& bytes) {
    std::string text;
    for (const std::byte byte : bytes) {
        text += "0123456789abcdef"[std::to_integer<unsigned>(byte) >> 4];
        text += "0123456789abcdef"[std::to_integer<unsigned>(byte) & 15];
    }
    return text;
}

/// The message of the refusal; empty if the file is accepted.
std::string refusal(const std::string& path, ErrorContext* context = nullptr) {
    try {
        const SafetensorsFile file(path);
    } catch (const FormatError& error) {
        CHECK(error.context().file == path);
        if (context != nullptr) *context = error.context();
        return error.what();
    }
    return {};
}

bool shows(const std::string& message, const std::string& fact) { return message.find(fact) != std::string::npos; }

/// A number that stands for itself, not a part of a longer one.
bool shows_number(const std::string& message, const std::string& number) {
    const auto digit = [&](std::size_t i) { return i < message.size() && message[i] >= '0' && message[i] <= '9'; };
    for (std::size_t at = message.find(number); at != std::string::npos; at = message.find(number, at + 1))
        if (!(at != 0 && digit(at - 1)) && !digit(at + number.size())) return true;
    return false;
}

}  // namespace

TEST_CASE("badfiles: every malformed file is refused with its facts, every unusual one read as it is") {
    const Value manifest = io::parse_json(io::read_file(folder + "manifest.json", 1 << 20));
    std::size_t refused = 0;
    std::size_t accepted = 0;
    for (const Value& row : manifest.as_array()) {
        const std::string path = folder + row.at("path").as_string();
        CAPTURE(row.at("path").as_string(), row.at("why").as_string());
        ErrorContext context;
        const std::string message = refusal(path, &context);
        CAPTURE(message);
        if (!row.at("valid").as_bool()) {
            ++refused;
            CHECK(test::fit_for_a_log(message));
            // the directory of the tests may be too long to be shown whole
            CHECK(shows(message, row.at("path").as_string().substr(row.at("path").as_string().find('/'))));
            // a fault must not be found by another check by chance
            const std::string& code = row.at("code").as_string();
            if (code == "DUP_KEY") CHECK(shows(message, "given twice"));
            if (code == "TRAILING_DATA") CHECK(shows(message, "too many"));
            if (code == "SIZE_MISMATCH") CHECK(shows(message, "shape and data_offsets disagree"));
            const Value* names = row.find("names");
            if (names == nullptr) continue;
            if (names->find("tensor") != nullptr) CHECK(context.subject == names->at("tensor").as_string());
            if (names->find("key") != nullptr) CHECK(shows(message, names->at("key").as_string()));
            for (const char* fact : {"expected", "got"})
                if (names->find(fact) != nullptr) CHECK(shows_number(message, names->at(fact).as_string()));
            continue;
        }
        ++accepted;
        REQUIRE(message.empty());
        const SafetensorsFile file(path);
        const Value* content = row.find("content");
        if (content == nullptr) continue;
        REQUIRE(file.tensors().size() == content->as_object().size());
        for (const Value::Member& member : content->as_object()) {
            const Value::Array& tensor = member.value.as_array();
            const io::TensorInfo& info = file.at(member.key);
            CHECK(io::dtype_name(info.dtype) == tensor[0].as_string());
            REQUIRE(info.shape.size() == tensor[1].as_array().size());
            for (std::size_t i = 0; i < info.shape.size(); ++i) CHECK(info.shape[i] == tensor[1].as_array()[i].as_unsigned());
            CHECK(hexadecimal(file.read_bytes(member.key)) == tensor[2].as_string());
        }
    }
    CHECK(refused == 90);
    CHECK(accepted == 19);
}

TEST_CASE("badfiles: a hundred thousand nested arrays in a field that is not read are refused") {
    const test::Scratch scratch;
    const std::string deep = std::string(100'000, '[') + std::string(100'000, ']');
    test::store(scratch / "deep", test::tensor_file(R"({"w":{"dtype":"F32","shape":[1],"data_offsets":[0,4],"x":)" + deep + "}}", "abcd"));
    CHECK(shows(refusal(scratch / "deep"), "w: the header is nested too deep"));
    const std::string legal = std::string(100, '[') + std::string(100, ']');
    test::store(scratch / "legal", test::tensor_file(R"({"w":{"dtype":"F32","shape":[1],"data_offsets":[0,4],"x":)" + legal + "}}", "abcd"));
    CHECK(refusal(scratch / "legal").empty());
}

TEST_CASE("badfiles: two thousand tensors on the same bytes are refused") {
    const test::Scratch scratch;
    std::string header = "{";
    for (int i = 0; i < 2000; ++i) {
        header.append(i == 0 ? "\"t" : ",\"t").append(std::to_string(i)).append("\":{\"dtype\":\"F32\",\"shape\":[4],\"data_offsets\":[0,16]}");
    }
    test::store(scratch / "a", test::tensor_file(header + "}", std::string(16, 'x')));
    CHECK(shows(refusal(scratch / "a"), "overlaps"));
}

TEST_CASE("badfiles: seven hundred tensors of a byte are read") {
    const test::Scratch scratch;
    std::string header = "{";
    std::string data;
    for (int i = 0; i < 700; ++i) {
        header.append(i == 0 ? "\"t" : ",\"t").append(std::to_string(1000 + i)).append("\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[");
        header.append(std::to_string(i)).append(",").append(std::to_string(i + 1)).append("]}");
        data += static_cast<char>(i % 251);
    }
    test::store(scratch / "a", test::tensor_file(header + "}", data));
    const SafetensorsFile file(scratch / "a");
    REQUIRE(file.tensors().size() == 700);
    for (std::size_t i = 0; i < 700; ++i) {
        CHECK(file.tensors()[i].name == "t" + std::to_string(1000 + i));
        CHECK(std::to_integer<std::size_t>(file.read_bytes(file.tensors()[i].name).at(0)) == i % 251);
    }
}
