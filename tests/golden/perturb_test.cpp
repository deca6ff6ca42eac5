#include "replay.hpp"

#include "support/catch.hpp"
#include "support/temporary_directory.hpp"

#include <peft/io/json.hpp>
#include <peft/io/safetensors.hpp>

#include <cmath>
#include <cstring>
#include <filesystem>
#include <set>
#include <string>
#include <vector>

// The replay has to notice when anything it is given is slightly off: each tensor of a case, input or expected output, is
// changed by 1e-3 of its largest element in turn, and the case has to fail.

namespace {

using golden::Result;

/// A case that may be changed.
class Copy {
public:
    explicit Copy(const std::filesystem::path& source) {
        std::filesystem::copy(source, directory_.path(), std::filesystem::copy_options::recursive | std::filesystem::copy_options::overwrite_existing);
    }
    const std::string& path() const { return directory_.path(); }

private:
    peft_test::TemporaryDirectory directory_;
};

/// The file with one tensor moved by 1e-3 of its maximum, every element in the direction of its sign.
void perturb(const std::string& path, const std::string& name) {
    const peft::io::SafetensorsFile file(path);
    std::vector<std::vector<std::byte>> bytes;
    std::vector<peft::io::TensorData> tensors;
    for (const auto& info : file.tensors()) bytes.push_back(file.read_bytes(info.name));
    for (std::size_t k = 0; k < file.tensors().size(); ++k) {
        const auto& info = file.tensors()[k];
        if (info.name == name) {
            std::vector<double> values(bytes[k].size() / peft::io::dtype_size(info.dtype));
            file.read_values<double>(info, std::span<double>(values));
            double largest = 0;
            for (const double value : values) largest = std::max(largest, std::abs(value));
            for (double& value : values) value += std::copysign(1e-3 * largest, value);
            for (std::size_t i = 0; i < values.size(); ++i) {
                const auto narrow = static_cast<float>(values[i]);
                if (info.dtype == peft::io::Dtype::F64) std::memcpy(bytes[k].data() + 8 * i, &values[i], 8);
                else std::memcpy(bytes[k].data() + 4 * i, &narrow, 4);
            }
        }
        tensors.push_back({info.name, info.dtype, info.shape, bytes[k]});
    }
    const peft::io::Metadata metadata = file.metadata();
    peft::io::write_safetensors(path, tensors, metadata);
}

/// Names of a file's tensors that the replay reads.
std::vector<std::string> used_names(const std::string& path, bool adapter_file, bool both_bases) {
    const peft::io::SafetensorsFile file(path);
    std::set<std::string> all;
    for (const auto& info : file.tensors()) all.insert(info.name);
    std::vector<std::string> names;
    for (const std::string& name : all) {
        if (name.starts_with("adapter.") && !adapter_file) {
            const bool file_holds_it = std::filesystem::exists(std::filesystem::path(path).parent_path() / "adapter");
            if (file_holds_it) continue;                       // a copy of what the adapter directory holds
        }
        const bool original = name.starts_with("base.") && all.count("orig." + name.substr(5)) != 0;
        if (original && !both_bases) continue;                                // the replay starts from the original
        names.push_back(name);
    }
    return names;
}

void check_case(const std::string& folder, const std::string& name, const std::set<std::string>& not_felt = {}, bool both_bases = false) {
    const std::filesystem::path source = std::filesystem::path(PEFT_TEST_DATA) / "golden" / folder / name;
    REQUIRE(golden::replay<double>(source.string()).verdict == Result::Verdict::ok);
    std::vector<std::string> files{"tensors.safetensors"};
    for (const auto& entry : std::filesystem::recursive_directory_iterator(source)) {
        if (entry.path().filename() == "adapter_model.safetensors") files.push_back(std::filesystem::relative(entry.path(), source).string());
    }
    for (const std::string& file : files) {
        for (const std::string& tensor : used_names((source / file).string(), file != "tensors.safetensors", both_bases)) {
            if (not_felt.count(tensor) != 0) continue;
            const Copy copy(source);
            perturb(copy.path() + "/" + file, tensor);
            const Result result = golden::replay<double>(copy.path());
            INFO(name << ": " << file << ": " << tensor << ": " << result.line);
            CHECK(result.verdict == Result::Verdict::fail);
        }
    }
}

}  // namespace

TEST_CASE("golden replay: a tensor that is off by a thousandth fails its case", "") {
    check_case("data", "lora_plain");
    check_case("data", "lora_dora");
    check_case("data", "ia3");
    check_case("data", "lora_conv1d");
    check_case("data", "lora_mixed_batch");
    check_case("data", "lora_modules_to_save", {"base.head.weight", "base.head.bias"});   // replaced by the trained ones
    check_case("data", "lora_bias_all", {"orig.fc1.bias", "orig.fc2.bias"});              // replaced by the trained ones
    check_case("data", "lora_init_pissa", {}, true);
    check_case("data", "vera");
    check_case("data", "vera_nosave");
    check_case("data", "convert_pissa");
    check_case("data_methods", "ssf_mlp");
    check_case("data_methods", "loralib_linear");
    check_case("data_methods", "nola_gpt_kmid", {"buffer.lora_A.seed", "buffer.lora_B.seed"});   // torch's: the bases are given
    check_case("data_methods", "nola_vit2", {"buffer.seed"});
}

TEST_CASE("golden replay: a configuration that says something else fails its case", "") {
    const std::filesystem::path source = std::filesystem::path(PEFT_TEST_DATA) / "golden" / "data" / "lora_plain";
    const Copy copy(source);
    const std::string path = copy.path() + "/adapter/adapter_config.json";
    peft::Value config = peft::io::parse_json(peft::io::read_file(path, 1u << 20), path);
    config.set("lora_alpha", peft::Value(9));
    peft::io::AtomicFile file(path);
    file.write(std::string_view(peft::io::dump_json(config, 2)));
    file.commit();
    CHECK(golden::replay<float>(copy.path()).verdict == Result::Verdict::fail);
}

TEST_CASE("golden replay: a case without its tensors or with another model is no success", "") {
    const std::filesystem::path source = std::filesystem::path(PEFT_TEST_DATA) / "golden" / "data" / "lora_plain";
    {
        const Copy copy(source);
        std::filesystem::remove(copy.path() + "/tensors.safetensors");
        CHECK(golden::replay<float>(copy.path()).verdict == Result::Verdict::fail);
    }
    {
        const Copy copy(source);
        const std::string path = copy.path() + "/case.json";
        peft::Value description = peft::io::parse_json(peft::io::read_file(path, 1u << 20), path);
        description.set("model", peft::Value("a model of tomorrow"));
        peft::io::AtomicFile file(path);
        file.write(std::string_view(peft::io::dump_json(description, 2)));
        file.commit();
        CHECK(golden::replay<float>(copy.path()).verdict == Result::Verdict::unsupported);
    }
}
