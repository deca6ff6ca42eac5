#pragma once
#include <cstddef>

namespace optim_test {
/// Calls of operator new in this program so far.
std::size_t allocations();
}
