#pragma once

#include <cstddef>
#include <poll.h>
#include <span>
#include <string>
#include <sys/uio.h>
#include <system_error>
#include <utility>
#include <vector>

#include <drover/os/credentials.hpp>
#include <drover/wire/buffer.hpp>
#include <drover/wire/channel.hpp>
#include <drover/wire/codec.hpp>
#include <drover/wire/detail/version.hpp>
#include <drover/wire/frame.hpp>
#include <drover/wire/protocol.hpp>

namespace drover { inline namespace v1 { namespace detail {

/// Sends a worker's first frame, HELLO or START_FAILED, with the credentials of this process. Waits until the socket
/// has taken all of it. False if the parent has closed its end. Throws std::system_error.
inline bool send_first(int control, FrameType type, std::span<const std::byte> body) {
  FrameWriter writer;
  FrameHeader header;
  header.type = type;
  header.id = hello_id();
  writer.queue(header, body);
  iovec part{};
  while (writer.gather(&part, 1) != 0) {
    try {
      writer.consumed(send_with_credentials(control, {static_cast<const std::byte*>(part.iov_base), part.iov_len}));
    } catch (const std::system_error& error) {
      if (error.code() == std::errc::broken_pipe || error.code() == std::errc::connection_reset) return false;
      if (error.code() == std::errc::no_buffer_space || error.code() == std::errc::not_enough_memory) {
        ::poll(nullptr, 0, static_cast<int>(Channel::memory_pause.count()));
        continue;
      }
      if (error.code() != std::errc::resource_unavailable_try_again) throw;
      pollfd writable{control, POLLOUT, 0};
      ::poll(&writable, 1, -1);
    }
  }
  return true;
}

/// Sends HELLO with the names of the routines, see send_first().
inline bool send_hello(int control, std::vector<std::string> routines) {
  ByteBuffer body;
  Encoder encoder(body);
  encoder.put(Hello{library_version, std::move(routines)});
  return send_first(control, FrameType::hello, body.view());
}

}}}  // namespace drover::v1::detail
