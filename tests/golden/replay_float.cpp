#include "replay.inc.hpp"

template golden::Result golden::replay<float>(const std::string&);
