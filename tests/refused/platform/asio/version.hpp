// Asio as an older one, if the test wants that.
#include_next <asio/version.hpp>
#if defined(FAKE_OLD_ASIO)
#undef ASIO_VERSION
#define ASIO_VERSION 101800
#endif
