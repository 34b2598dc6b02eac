// What lacks something that drover needs fails to compile, and the first error says what that is.
#if defined(ASIO_FIRST)
#include <asio/io_context.hpp>
#endif

#include <drover/drover.hpp>
