// What is no template, compiled once.
#include <drover/src.hpp>
