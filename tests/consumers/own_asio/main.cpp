#include <asio/version.hpp>

#include <drover/error.hpp>

static_assert(ASIO_VERSION == EXPECTED, "drover uses another Asio than the project's own");

int main() {}
