#pragma once
#include <peft/kernels/checksum.hpp>

#include <cstdint>
#include <string>
#include <string_view>

PEFT_BEGIN
namespace io {
inline namespace PEFT_ISA_NAME {

/// Where the tensors of an adapter keep the digest of the configuration they were saved with.
inline constexpr std::string_view config_digest_key = "peft_config_digest";

/// 16 hexadecimal digits of a configuration's text: tells a torn pair, no more.
inline std::string config_digest(std::string_view text) {
    constexpr std::string_view digits = "0123456789abcdef";
    const std::uint64_t sum = checksum(text.data(), text.size());
    std::string result;
    for (int shift = 60; shift >= 0; shift -= 4) result += digits[(sum >> shift) & 15u];
    return result;
}

}  // namespace PEFT_ISA_NAME
}  // namespace io
PEFT_END
