#include <drover/drover.hpp>
