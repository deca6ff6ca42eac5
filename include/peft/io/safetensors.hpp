#pragma once
#include <peft/core/matrix.hpp>
#include <peft/core/scalar.hpp>
#include <peft/io/file.hpp>
#include <peft/io/json.hpp>

#include <algorithm>
#include <array>
#include <bit>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <tuple>
#include <utility>
#include <vector>

PEFT_BEGIN
namespace io {

static_assert(std::endian::native == std::endian::little, "tensor files are little-endian and are copied as they are");

/// What the numbers of a tensor are stored in.
enum class Dtype : std::uint8_t {
    BOOL, F4, F6_E2M3, F6_E3M2, U8, I8, F8_E5M2, F8_E4M3, F8_E8M0, I16, U16, F16, BF16, I32, U32, F32, C64, F64, I64, U64
};

/// One tensor of a file. Bytes [begin, end) of the data area hold it, row-major.
struct TensorInfo {
    std::string name{};
    Dtype dtype = Dtype::F32;
    std::vector<std::size_t> shape{};
    std::uint64_t begin = 0;
    std::uint64_t end = 0;

    std::uint64_t byte_count() const noexcept { return end - begin; }
};

/// A tensor to be written; `bytes` are its numbers, row-major and little-endian.
struct TensorData {
    std::string name{};
    Dtype dtype = Dtype::F32;
    std::vector<std::size_t> shape{};
    std::span<const std::byte> bytes{};
};

/// The __metadata__ of a tensor file.
using Metadata = std::map<std::string, std::string, std::less<>>;

}  // namespace io
PEFT_END

PEFT_ISA_DETAIL_BEGIN

struct DtypeRow {
    std::string_view name;
    unsigned bits;
};
/// Indexed by Dtype. Source: huggingface/safetensors, safetensors/src/tensor.rs.
inline constexpr std::array<DtypeRow, 20> dtype_rows{{{"BOOL", 8},     {"F4", 4},       {"F6_E2M3", 6}, {"F6_E3M2", 6}, {"U8", 8},
                                                      {"I8", 8},       {"F8_E5M2", 8},  {"F8_E4M3", 8}, {"F8_E8M0", 8}, {"I16", 16},
                                                      {"U16", 16},     {"F16", 16},     {"BF16", 16},   {"I32", 32},    {"U32", 32},
                                                      {"F32", 32},     {"C64", 64},     {"F64", 64},    {"I64", 64},    {"U64", 64}}};

inline constexpr std::uint64_t header_limit = 100'000'000;   // of the reference reader
inline constexpr std::size_t tensor_rank_limit = 1024;       // ours: far above any model, bounds the memory a header can ask for
inline constexpr std::string_view metadata_name = "__metadata__";

inline std::string dims_text(std::span<const std::size_t> shape) {
    std::string text = "[";
    for (std::size_t i = 0; i < shape.size(); ++i) {
        if (text.size() > 120) return text + ", ...]";
        if (i != 0) text += ", ";
        text += std::to_string(shape[i]);
    }
    return text + "]";
}

/// How a tensor is called in an error; an empty name would vanish.
inline std::string tensor_subject(std::string_view name) { return name.empty() ? "tensor \"\"" : std::string(name); }

/// Bytes of a tensor, or nothing where bits or elements leave 64 bits. Dimensions of zero are taken last: whether
/// [2^64-1, 2^64-1, 0] is refused must not depend on the order.
inline std::optional<std::uint64_t> bit_count(io::Dtype dtype, std::span<const std::size_t> shape) noexcept {
    std::uint64_t bits = dtype_rows[static_cast<std::size_t>(dtype)].bits;
    bool empty = false;
    for (const std::size_t dimension : shape) {
        if (dimension == 0) empty = true;
        else if (__builtin_mul_overflow(bits, std::uint64_t{dimension}, &bits)) return std::nullopt;
    }
    return empty ? 0 : bits;
}

/// Bytes of a tensor; FormatError if they overflow or are no whole number.
inline std::uint64_t checked_byte_count(const std::string& file, std::string_view name, io::Dtype dtype, std::span<const std::size_t> shape) {
    const auto bits = bit_count(dtype, shape);
    if (bits && *bits % 8 == 0) return *bits / 8;
    throw FormatError(bits ? "the tensor does not fill whole bytes" : "the size of the tensor overflows",
                      {.file = file,
                       .subject = tensor_subject(name),
                       .found = std::string(dtype_rows[static_cast<std::size_t>(dtype)].name) + " " + dims_text(shape)});
}

/// Key and value pairs in one piece of text: about as large as their source, whatever the file holds.
struct PackedPairs {
    std::string text;
    std::vector<std::uint32_t> ends;   // of key, value, key, value, ...

    std::string_view part(std::size_t index) const noexcept {
        const std::size_t begin = index == 0 ? 0 : ends[index - 1];
        return std::string_view(text).substr(begin, ends[index] - begin);
    }
    void append(std::string_view part_text) {
        text += part_text;
        ends.push_back(static_cast<std::uint32_t>(text.size()));
    }
    std::size_t pairs() const noexcept { return ends.size() / 2; }
};

/// Reads the header of a tensor file from JSON events, straight into the table: no tree, a few times the header at most.
class HeaderReader {
public:
    using number_integer_t = nlohmann::json::number_integer_t;
    using number_unsigned_t = nlohmann::json::number_unsigned_t;
    using number_float_t = nlohmann::json::number_float_t;
    using string_t = nlohmann::json::string_t;
    using binary_t = nlohmann::json::binary_t;

    explicit HeaderReader(const std::string& file) : file_(file) {}

    bool null() {
        if (place_ == Place::metadata_value) {   // the reference takes it for absent
            place_ = Place::names;
            return true;
        }
        return other("null");
    }
    bool boolean(bool value) { return other(value ? "true" : "false"); }
    bool number_integer(number_integer_t value) { return other(value == 0 ? "-0" : std::to_string(value)); }
    bool number_unsigned(number_unsigned_t value) {
        if (place_ == Place::shape_items) {
            if (value > std::numeric_limits<std::size_t>::max()) return other(std::to_string(value));
            if (numbers_.size() == tensor_rank_limit) {
                fault("the tensor has too many dimensions", "at most " + std::to_string(tensor_rank_limit), "more");
            }
            numbers_.push_back(static_cast<std::size_t>(value));
            return true;
        }
        if (place_ == Place::offset_items) {
            if (offset_count_ < 2) offsets_[offset_count_] = value;
            ++offset_count_;
            return true;
        }
        return other(std::to_string(value));
    }
    bool number_float(number_float_t, const string_t& text) { return other(text); }
    bool string(string_t& value) {
        if (place_ == Place::metadata_item) {
            metadata.append(value);
            place_ = Place::metadata_keys;
            return true;
        }
        if (place_ == Place::dtype_value) {
            const auto* row = std::find_if(dtype_rows.begin(), dtype_rows.end(), [&](const DtypeRow& known) { return known.name == value; });
            if (row == dtype_rows.end()) fault("unknown dtype", "a dtype such as F32", '"' + printable(value, 100) + '"');
            current_.dtype = static_cast<io::Dtype>(row - dtype_rows.begin());
            place_ = Place::fields;
            return true;
        }
        return other('"' + printable(value, 100) + '"');
    }
    bool binary(binary_t&) { return false; }

    bool start_object(std::size_t) {
        enter();
        switch (place_) {
        case Place::start: place_ = Place::names; return true;
        case Place::metadata_value: place_ = Place::metadata_keys; return true;
        case Place::entry_value:
            place_ = Place::fields;
            seen_ = {};
            return true;
        case Place::ignored: ++ignored_depth_; return true;
        default: return wrong("an object");
        }
    }
    bool start_array(std::size_t) {
        enter();
        switch (place_) {
        case Place::shape_value:
            place_ = Place::shape_items;
            numbers_.clear();
            return true;
        case Place::offset_value:
            place_ = Place::offset_items;
            offset_count_ = 0;
            return true;
        case Place::ignored: ++ignored_depth_; return true;
        default: return wrong("an array");
        }
    }
    bool key(string_t& name) {
        switch (place_) {
        case Place::names:
            if (name == metadata_name) {
                if (std::exchange(has_metadata_, true)) {
                    throw FormatError("the metadata block is given twice", {.file = file_, .subject = std::string(metadata_name)});
                }
                place_ = Place::metadata_value;
            } else {
                current_.name = name;
                place_ = Place::entry_value;
            }
            break;
        case Place::metadata_keys:
            metadata.append(name);
            place_ = Place::metadata_item;
            break;
        case Place::fields:
            if (name == "dtype") field(0, "dtype", Place::dtype_value);
            else if (name == "shape") field(1, "shape", Place::shape_value);
            else if (name == "data_offsets") field(2, "data_offsets", Place::offset_value);
            else place_ = Place::ignored;   // from a newer writer; whatever it holds
            break;
        default: break;
        }
        return true;
    }
    bool end_object() {
        --depth_;
        switch (place_) {
        case Place::names: place_ = Place::done; break;
        case Place::metadata_keys: place_ = Place::names; break;
        case Place::fields: finish_entry(); break;
        default: leave_ignored();
        }
        return true;
    }
    bool end_array() {
        --depth_;
        if (place_ == Place::shape_items) {
            current_.shape.assign(numbers_.begin(), numbers_.end());
            place_ = Place::fields;
        } else if (place_ == Place::offset_items) {
            if (offset_count_ != 2) {
                fault("wrong data_offsets", "two integers", std::to_string(offset_count_));
            }
            current_.begin = offsets_[0];
            current_.end = offsets_[1];
            if (current_.begin > current_.end) {
                fault("data_offsets end before they begin", "begin <= end",
                      "[" + std::to_string(current_.begin) + ", " + std::to_string(current_.end) + "]");
            }
            place_ = Place::fields;
        } else {
            leave_ignored();
        }
        return true;
    }
    bool parse_error(std::size_t position, const std::string&, const nlohmann::detail::exception& error) {
        const std::size_t offset = skipped + position - (position == 0 ? 0 : 1);
        // NaN or 1e400 in a shape is the fault of that tensor
        if (place_ == Place::shape_items || place_ == Place::offset_items) {
            fault(place_ == Place::shape_items ? "wrong dimension in the shape" : "wrong data_offsets", "integers",
                  std::string(json_reason(error.what())) + " at byte " + std::to_string(offset) + " of the header");
        }
        json_fault({file_, "header"}, offset, json_reason(error.what()));
    }

    std::size_t skipped = 0;
    std::vector<io::TensorInfo> tensors;
    PackedPairs metadata;

private:
    enum class Place {
        start, names, done,                                   // the header object
        metadata_value, metadata_keys, metadata_item,         // __metadata__
        entry_value, fields, dtype_value, shape_value, shape_items, offset_value, offset_items,
        ignored
    };

    void enter() {
        if (++depth_ > io::json_depth_limit) {
            throw FormatError("the header is nested too deep",
                              {.file = file_,
                               .subject = place_ == Place::ignored ? tensor_subject(current_.name) : std::string(),
                               .expected = "at most " + std::to_string(io::json_depth_limit) + " levels"});
        }
    }
    void leave_ignored() {
        if (place_ == Place::ignored && --ignored_depth_ == 0) place_ = Place::fields;
    }
    // A scalar that is not what its place wants.
    bool other(std::string found) {
        if (place_ != Place::ignored) return wrong(std::move(found));
        if (ignored_depth_ == 0) place_ = Place::fields;
        return true;
    }
    [[noreturn]] bool wrong(std::string found) const {
        switch (place_) {
        case Place::start:
            throw FormatError("the header is of the wrong type",
                              {.file = file_, .expected = "a JSON object", .found = std::move(found)});
        case Place::metadata_value: metadata_fault("the metadata block is of the wrong type", "an object of strings", std::move(found));
        case Place::metadata_item:
            metadata_fault("the value of \"" + printable(metadata.part(metadata.ends.size() - 1), 80) + "\" is of the wrong type",
                           "a string", std::move(found));
        case Place::entry_value: fault("the entry of a tensor is of the wrong type", "an object", std::move(found));
        case Place::dtype_value: fault("the dtype is of the wrong type", "a string", std::move(found));
        case Place::shape_value: fault("the shape is of the wrong type", "an array of integers", std::move(found));
        case Place::shape_items: fault("wrong dimension in the shape", "an integer that is not negative", std::move(found));
        case Place::offset_value: fault("data_offsets are of the wrong type", "an array of two integers", std::move(found));
        case Place::offset_items: fault("wrong data_offsets", "integers that are not negative", std::move(found));
        default: throw FormatError("unexpected value in the header", {.file = file_, .found = std::move(found)});
        }
    }
    void field(std::size_t index, std::string_view name, Place next) {
        if (std::exchange(seen_[index], true)) fault("the field \"" + std::string(name) + "\" is given twice", {}, {});
        place_ = next;
    }
    void finish_entry() {
        constexpr std::array<std::string_view, 3> names{"dtype", "shape", "data_offsets"};
        for (std::size_t i = 0; i < names.size(); ++i)
            if (!seen_[i]) fault("the field \"" + std::string(names[i]) + "\" is missing", {}, {});
        tensors.push_back(std::move(current_));
        current_ = {};
        place_ = Place::names;
    }
    [[noreturn]] PEFT_COLD void fault(std::string_view what, std::string expected, std::string found) const {
        throw FormatError(what, {.file = file_,
                                 .subject = tensor_subject(current_.name),
                                 .expected = std::move(expected),
                                 .found = std::move(found)});
    }
    [[noreturn]] PEFT_COLD void metadata_fault(std::string_view what, std::string expected, std::string found) const {
        throw FormatError(what, {.file = file_,
                                 .subject = std::string(metadata_name),
                                 .expected = std::move(expected),
                                 .found = std::move(found)});
    }

    const std::string& file_;
    Place place_ = Place::start;
    std::size_t depth_ = 0;
    std::size_t ignored_depth_ = 0;
    bool has_metadata_ = false;
    std::array<bool, 3> seen_{};
    io::TensorInfo current_;
    std::vector<std::size_t> numbers_;
    std::array<std::uint64_t, 2> offsets_{};
    std::size_t offset_count_ = 0;
};

/// What the first bytes of something that is no tensor file remind of.
inline std::string_view looks_like(std::string_view start) {
    constexpr std::array<std::pair<std::string_view, std::string_view>, 10> known{{
        {"version https://git-lfs", "a Git LFS pointer (fetch the file itself with git lfs pull)"},
        {"<!DOCTYPE", "an HTML page"},
        {"<!doctype", "an HTML page"},
        {"<html", "an HTML page"},
        {"PK\x03\x04", "a zip archive, as torch.save writes it"},
        {"\x80\x02", "a pickle"},
        {"\x80\x04", "a pickle"},
        {"GGUF", "a GGUF file"},
        {"\x1f\x8b", "a gzip archive"},
        {"{", "JSON text"},
    }};
    for (const auto& [magic, what] : known)
        if (start.starts_with(magic)) return what;
    return {};
}

/// out[i] = the i-th number of `bytes`, stored as S, rounded once if T is smaller.
template <class T, class S> void convert_numbers(std::span<const std::byte> bytes, T* out) noexcept {
    for (std::size_t i = 0; i < bytes.size() / sizeof(S); ++i) {
        S value;
        std::memcpy(&value, bytes.data() + i * sizeof(S), sizeof(S));   // may be misaligned
        out[i] = round_to<T>(widen(value));
    }
}

PEFT_ISA_DETAIL_END

PEFT_BEGIN
namespace io {
inline namespace PEFT_ISA_NAME {

inline std::string_view dtype_name(Dtype dtype) noexcept { return detail::dtype_rows[static_cast<std::size_t>(dtype)].name; }
/// Bits of one element; 4 and 6 for the types below a byte.
inline unsigned dtype_bits(Dtype dtype) noexcept { return detail::dtype_rows[static_cast<std::size_t>(dtype)].bits; }
/// Bytes of one element; 0 for the types below a byte.
inline std::size_t dtype_size(Dtype dtype) noexcept { return dtype_bits(dtype) / 8; }

namespace types {
template <class S> struct dtype_of;
template <> struct dtype_of<float> { static constexpr Dtype value = Dtype::F32; };
template <> struct dtype_of<double> { static constexpr Dtype value = Dtype::F64; };
template <> struct dtype_of<bfloat16> { static constexpr Dtype value = Dtype::BF16; };
template <> struct dtype_of<float16> { static constexpr Dtype value = Dtype::F16; };
template <> struct dtype_of<std::int8_t> { static constexpr Dtype value = Dtype::I8; };
template <> struct dtype_of<std::int16_t> { static constexpr Dtype value = Dtype::I16; };
template <> struct dtype_of<std::int32_t> { static constexpr Dtype value = Dtype::I32; };
template <> struct dtype_of<std::int64_t> { static constexpr Dtype value = Dtype::I64; };
template <> struct dtype_of<std::uint8_t> { static constexpr Dtype value = Dtype::U8; };
template <> struct dtype_of<std::uint16_t> { static constexpr Dtype value = Dtype::U16; };
template <> struct dtype_of<std::uint32_t> { static constexpr Dtype value = Dtype::U32; };
template <> struct dtype_of<std::uint64_t> { static constexpr Dtype value = Dtype::U64; };
}  // namespace types

/// The Dtype that numbers of type S are stored in.
template <class S> constexpr Dtype dtype_of() noexcept { return types::dtype_of<S>::value; }

/// A safetensors file, open for reading. Opening reads the header and checks all of it against the length of the file, so
/// that no tensor can be found broken later; the data stay on disk until read. Stricter than the reference reader:
/// a name, metadata key or field given twice is refused, and so is an entry that is no object. Accepted on reading:
/// white space before the header, unknown fields in an entry (not looked at), "__metadata__": null, empty names, any
/// alignment, at most 1024 dimensions. Numbers are not looked at. const calls may run in several threads.
/// Throws FormatError naming file, tensor, what was expected and found; FileError where the system refuses.
/// Source of the format: huggingface/safetensors, README.md and safetensors/src/tensor.rs.
class SafetensorsFile {
public:
    explicit SafetensorsFile(std::string path) : file_(std::move(path)) {
        const std::string header = read_header();
        detail::HeaderReader reader(file_.path());
        detail::read_json(header, {file_.path(), "header"}, reader);
        tensors_ = std::move(reader.tensors);
        metadata_ = std::move(reader.metadata);
        check_names();
        check_layout();
    }

    const std::string& path() const noexcept { return file_.path(); }
    /// Sorted by name.
    std::span<const TensorInfo> tensors() const noexcept { return tensors_; }
    /// Null if there is none of that name.
    const TensorInfo* find(std::string_view name) const noexcept {
        const auto at = std::lower_bound(tensors_.begin(), tensors_.end(), name,
                                         [](const TensorInfo& info, std::string_view wanted) { return info.name < wanted; });
        return at != tensors_.end() && at->name == name ? &*at : nullptr;
    }
    /// The same, but it must be there.
    const TensorInfo& at(std::string_view name) const {
        const TensorInfo* info = find(name);
        if (info == nullptr) {
            throw FormatError("the file has no such tensor", {.file = path(), .subject = detail::tensor_subject(name)});
        }
        return *info;
    }
    Metadata metadata() const {
        Metadata result;
        for (std::size_t i = 0; i < metadata_.pairs(); ++i) result.emplace(metadata_.part(2 * i), metadata_.part(2 * i + 1));
        return result;
    }

    /// The bytes of a tensor of this file; `out` has info.byte_count() bytes, else ShapeError.
    void read(const TensorInfo& info, std::span<std::byte> out) const {
        if (out.size() != info.byte_count()) {
            throw ShapeError("wrong size of the memory for a tensor",
                             {.file = path(),
                              .subject = detail::tensor_subject(info.name),
                              .expected = std::to_string(info.byte_count()) + " bytes",
                              .found = std::to_string(out.size())});
        }
        file_.read(data_begin_ + info.begin, out);
    }
    std::vector<std::byte> read_bytes(std::string_view name) const {
        const TensorInfo& info = at(name);
        std::vector<std::byte> bytes(static_cast<std::size_t>(info.byte_count()));
        read(info, bytes);
        return bytes;
    }

    /// The numbers of a tensor of any shape, row-major; `out` has as many elements, else ShapeError. Floating-point T:
    /// from F64, F32, F16 or BF16, rounded once, beyond the range of T to infinity; NaN stays NaN. Other T: only from the
    /// dtype of T itself. Any other dtype is a FormatError.
    template <class T> void read_values(const TensorInfo& info, std::span<T> out) const {
        if (info.dtype == dtype_of<T>()) return read(info, std::as_writable_bytes(out));
        if constexpr (StorageScalar<T>) {
            switch (info.dtype) {
            case Dtype::F64: return read_as<T, double>(info, out);
            case Dtype::F32: return read_as<T, float>(info, out);
            case Dtype::F16: return read_as<T, float16>(info, out);
            case Dtype::BF16: return read_as<T, bfloat16>(info, out);
            default: break;
            }
        }
        throw FormatError("this dtype cannot be used here",
                          {.file = path(),
                           .subject = detail::tensor_subject(info.name),
                           .expected = StorageScalar<T> ? std::string("F64, F32, F16 or BF16") : std::string(dtype_name(dtype_of<T>())),
                           .found = std::string(dtype_name(info.dtype))});
    }
    /// A tensor as a matrix: (rows x cols), a vector as (1 x n), a scalar as (1 x 1); more dimensions are a FormatError.
    template <class T> Matrix<T> read_matrix(std::string_view name) const { return read_matrix<T>(at(name)); }
    template <class T> Matrix<T> read_matrix(const TensorInfo& info) const {
        if (info.shape.size() > 2) {
            throw FormatError("the tensor is no matrix", {.file = path(),
                                                          .subject = detail::tensor_subject(info.name),
                                                          .expected = "at most 2 dimensions",
                                                          .found = detail::dims_text(info.shape)});
        }
        const std::size_t rows = info.shape.size() < 2 ? 1 : info.shape[0];
        const std::size_t cols = info.shape.empty() ? 1 : info.shape.back();
        Matrix<T> result(rows, cols);
        read_values<T>(info, result.flat());
        return result;
    }

private:
    std::string read_header() {
        const std::uint64_t size = file_.size();
        std::array<std::byte, 24> start{};
        const auto available = static_cast<std::size_t>(std::min<std::uint64_t>(size, start.size()));
        file_.read(0, std::span(start).first(available));
        const std::string_view text(reinterpret_cast<const char*>(start.data()), available);
        if (size < 8) header_fault("the file is too short", "at least 8 bytes", std::to_string(size), text);
        std::uint64_t length = 0;
        std::memcpy(&length, start.data(), 8);
        if (length > detail::header_limit) {
            header_fault("the declared length of the header is too large", "at most " + std::to_string(detail::header_limit),
                         std::to_string(length), text);
        }
        if (length > size - 8) {
            header_fault("the header reaches beyond the end of the file", std::to_string(length) + " bytes of header",
                         std::to_string(size - 8), text);
        }
        data_begin_ = 8 + length;
        std::string header(static_cast<std::size_t>(length), '\0');
        file_.read(8, std::as_writable_bytes(std::span(header)));
        return header;
    }
    [[noreturn]] PEFT_COLD void header_fault(std::string what, std::string expected, std::string found, std::string_view start) const {
        if (const std::string_view other = detail::looks_like(start); !other.empty()) what.append("; this looks like ").append(other);
        throw FormatError(what, {.file = path(), .expected = std::move(expected), .found = std::move(found)});
    }

    void check_names() {
        std::sort(tensors_.begin(), tensors_.end(), [](const TensorInfo& a, const TensorInfo& b) { return a.name < b.name; });
        const auto twice = std::adjacent_find(tensors_.begin(), tensors_.end(),
                                              [](const TensorInfo& a, const TensorInfo& b) { return a.name == b.name; });
        if (twice != tensors_.end()) {
            throw FormatError("the tensor is given twice", {.file = path(), .subject = detail::tensor_subject(twice->name)});
        }
        std::vector<std::uint32_t> order(metadata_.pairs());
        for (std::size_t i = 0; i < order.size(); ++i) order[i] = static_cast<std::uint32_t>(2 * i);
        std::sort(order.begin(), order.end(), [&](auto a, auto b) { return metadata_.part(a) < metadata_.part(b); });
        const auto again = std::adjacent_find(order.begin(), order.end(), [&](auto a, auto b) { return metadata_.part(a) == metadata_.part(b); });
        if (again != order.end()) {
            throw FormatError("the key \"" + printable(metadata_.part(*again), 100) + "\" is given twice",
                              {.file = path(), .subject = std::string(detail::metadata_name)});
        }
    }
    // Every byte of the data area belongs to exactly one tensor.
    void check_layout() const {
        std::vector<std::uint32_t> order(tensors_.size());
        for (std::size_t i = 0; i < order.size(); ++i) order[i] = static_cast<std::uint32_t>(i);
        std::sort(order.begin(), order.end(), [&](auto a, auto b) {
            const TensorInfo& x = tensors_[a];
            const TensorInfo& y = tensors_[b];
            return std::tie(x.begin, x.end, a) < std::tie(y.begin, y.end, b);
        });
        const std::uint64_t available = file_.size() - data_begin_;
        std::uint64_t next = 0;
        for (const std::uint32_t index : order) {
            const TensorInfo& info = tensors_[index];
            const auto fault = [&](std::string_view what, std::string expected, std::string found) {
                throw FormatError(what, {.file = path(),
                                         .subject = detail::tensor_subject(info.name),
                                         .expected = std::move(expected),
                                         .found = std::move(found)});
            };
            if (info.begin != next) {
                fault(info.begin < next ? "the tensor overlaps another" : "unused bytes lie before the tensor",
                      "begin at " + std::to_string(next), std::to_string(info.begin));
            }
            const std::uint64_t needed = detail::checked_byte_count(path(), info.name, info.dtype, info.shape);
            if (needed != info.byte_count()) {
                fault("shape and data_offsets disagree",
                      std::to_string(needed) + " bytes for " + std::string(dtype_name(info.dtype)) + " " + detail::dims_text(info.shape),
                      std::to_string(info.byte_count()));
            }
            if (info.end > available) {
                fault("the file ends before the tensor does", std::to_string(info.end) + " bytes of data", std::to_string(available));
            }
            next = info.end;
        }
        if (next != available) {
            throw FormatError("bytes follow the last tensor", {.file = path(),
                                                               .expected = std::to_string(next) + " bytes of data",
                                                               .found = std::to_string(available) + ", " +
                                                                        std::to_string(available - next) + " too many"});
        }
    }
    template <class T, class S> void read_as(const TensorInfo& info, std::span<T> out) const {
        const std::uint64_t count = info.byte_count() / sizeof(S);
        if (out.size() != count) {
            throw ShapeError("wrong size of the memory for a tensor", {.file = path(),
                                                                       .subject = detail::tensor_subject(info.name),
                                                                       .expected = std::to_string(count) + " elements",
                                                                       .found = std::to_string(out.size())});
        }
        constexpr std::size_t chunk = std::size_t{1} << 16;   // elements: a read is then long enough to cost nothing
        std::vector<std::byte> bytes(std::min(out.size(), chunk) * sizeof(S));
        for (std::size_t done = 0; done < out.size(); done += chunk) {
            const auto part = std::span(bytes).first(std::min(out.size() - done, chunk) * sizeof(S));
            file_.read(data_begin_ + info.begin + done * sizeof(S), part);
            detail::convert_numbers<T, S>(part, out.data() + done);
        }
    }

    InputFile file_;
    std::uint64_t data_begin_ = 0;
    std::vector<TensorInfo> tensors_;
    detail::PackedPairs metadata_;
};

/// Writes a safetensors file as the reference writer lays it out: metadata first, tensors by falling size of an element and rising name,
/// the header padded with spaces to 8 bytes. Equal input gives equal bytes. `out` still has to be committed.
/// Throws FormatError, before anything is written, for a name given twice, bytes that do not fit dtype and shape, names
/// that are not UTF-8, and a header above 100 MB.
inline void write_safetensors(AtomicFile& out, std::span<const TensorData> tensors, const Metadata& metadata = {{"format", "pt"}}) {
    std::vector<const TensorData*> order;
    order.reserve(tensors.size());
    for (const TensorData& tensor : tensors) order.push_back(&tensor);
    std::sort(order.begin(), order.end(), [](const TensorData* a, const TensorData* b) { return a->name < b->name; });
    for (std::size_t i = 0; i < order.size(); ++i) {
        const TensorData& tensor = *order[i];
        const ErrorContext context{.file = out.path(), .subject = detail::tensor_subject(tensor.name)};
        if (i != 0 && order[i - 1]->name == tensor.name) throw FormatError("the tensor is given twice", context);
        if (tensor.name == detail::metadata_name) throw FormatError("no tensor can have this name", context);
        if (detail::invalid_utf8(tensor.name)) throw FormatError("the name of a tensor must be UTF-8", context);
        const std::uint64_t needed = detail::checked_byte_count(out.path(), tensor.name, tensor.dtype, tensor.shape);
        if (needed != tensor.bytes.size()) {
            throw FormatError("shape and bytes of the tensor disagree",
                              {.file = out.path(),
                               .subject = detail::tensor_subject(tensor.name),
                               .expected = std::to_string(needed) + " bytes for " + std::string(dtype_name(tensor.dtype)) + " " +
                                           detail::dims_text(tensor.shape),
                               .found = std::to_string(tensor.bytes.size())});
        }
    }
    std::stable_sort(order.begin(), order.end(), [](const TensorData* a, const TensorData* b) { return dtype_bits(a->dtype) > dtype_bits(b->dtype); });

    std::string header = "{";
    if (!metadata.empty()) {
        header += "\"__metadata__\":{";
        for (const auto& [key, value] : metadata) {
            if (header.back() != '{') header += ',';
            detail::append_json_string(header, key, false);
            header += ':';
            detail::append_json_string(header, value, false);
        }
        header += '}';
    }
    std::uint64_t offset = 0;
    for (const TensorData* tensor : order) {
        if (header.size() > 1) header += ',';
        detail::append_json_string(header, tensor->name, false);
        header.append(":{\"dtype\":\"").append(dtype_name(tensor->dtype)).append("\",\"shape\":[");
        for (std::size_t i = 0; i < tensor->shape.size(); ++i) header.append(i == 0 ? "" : ",").append(std::to_string(tensor->shape[i]));
        header.append("],\"data_offsets\":[").append(std::to_string(offset)).append(",");
        offset += tensor->bytes.size();
        header.append(std::to_string(offset)).append("]}");
    }
    header += '}';
    header.append((8 - header.size() % 8) % 8, ' ');
    if (header.size() > detail::header_limit) {
        throw FormatError("the header is too large", {.file = out.path(),
                                                      .expected = "at most " + std::to_string(detail::header_limit) + " bytes",
                                                      .found = std::to_string(header.size())});
    }

    const std::uint64_t length = header.size();
    out.write(std::as_bytes(std::span(&length, 1)));
    out.write(header);
    for (const TensorData* tensor : order) out.write(tensor->bytes);
}

/// The same to a path, which holds the old file or the whole new one at any time; it may be the one tensors are read from.
inline void write_safetensors(const std::string& path, std::span<const TensorData> tensors, const Metadata& metadata = {{"format", "pt"}}) {
    AtomicFile out(path);
    write_safetensors(out, tensors, metadata);
    out.commit();
}

}  // namespace PEFT_ISA_NAME
}  // namespace io
PEFT_END
