#pragma once

#include <cstddef>

/// The function that a plug-in of plugin_host has. Writes its result for the input to `output`: a string of less than
/// `size` characters. Returns 0, or the number of an error.
extern "C" int drover_plugin(const char* input, char* output, std::size_t size);
