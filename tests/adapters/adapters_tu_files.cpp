#include "contract/files.cpp"
