#pragma once

#include <algorithm>
#include <cerrno>
#include <cstdint>
#include <cstring>
#include <poll.h>
#include <span>
#include <string>
#include <sys/socket.h>
#include <unistd.h>
#include <vector>

#include <drover/os/credentials.hpp>
#include <drover/wire/codec.hpp>
#include <drover/wire/frame.hpp>
#include <drover/wire/protocol.hpp>

#include "support/descriptors.hpp"

/// What workers need that misbehave: the format of frames, and nothing of drover's worker side.
namespace hostile {

using drover::detail::FrameHeader;
using drover::detail::FrameType;
using support::lingering_socket;

inline constexpr int control = 3, data = 4;

inline void wait_for(int fd, short events) {
  pollfd ready{fd, events, 0};
  ::poll(&ready, 1, -1);
}

inline std::vector<std::byte> frame(FrameHeader header, std::span<const std::byte> body) {
  header.size = static_cast<std::uint32_t>(body.size());
  std::vector<std::byte> bytes(sizeof header + body.size());
  std::memcpy(bytes.data(), &header, sizeof header);
  if (!body.empty()) std::memcpy(bytes.data() + sizeof header, body.data(), body.size());
  return bytes;
}

/// With descriptors attached, if there are any.
inline void send(int socket, std::span<const std::byte> bytes, std::span<const int> descriptors = {}) {
  while (!bytes.empty()) {
    alignas(cmsghdr) char room[CMSG_SPACE(253 * sizeof(int))] = {};
    iovec part{const_cast<std::byte*>(bytes.data()), bytes.size()};
    msghdr message{};
    message.msg_iov = &part;
    message.msg_iovlen = 1;
    if (!descriptors.empty()) {
      message.msg_control = room;
      message.msg_controllen = CMSG_SPACE(descriptors.size_bytes());
      cmsghdr* const header = CMSG_FIRSTHDR(&message);
      header->cmsg_level = SOL_SOCKET;
      header->cmsg_type = SCM_RIGHTS;
      header->cmsg_len = CMSG_LEN(descriptors.size_bytes());
      std::memcpy(CMSG_DATA(header), descriptors.data(), descriptors.size_bytes());
    }
    const ssize_t sent = ::sendmsg(socket, &message, MSG_NOSIGNAL);
    if (sent < 0 && errno != EAGAIN && errno != EINTR) ::_exit(3);
    if (sent < 0) wait_for(socket, POLLOUT);
    if (sent > 0) bytes = bytes.subspan(static_cast<std::size_t>(sent)), descriptors = {};
  }
}

inline bool receive(int socket, void* place, std::size_t size) {
  for (char* at = static_cast<char*>(place); size != 0;) {
    const ssize_t got = ::recv(socket, at, size, 0);
    if (got == 0 || (got < 0 && errno != EAGAIN && errno != EINTR)) return false;
    if (got < 0) wait_for(socket, POLLIN);
    if (got > 0) at += got, size -= static_cast<std::size_t>(got);
  }
  return true;
}

inline FrameHeader next_call() {
  FrameHeader header;
  if (!receive(data, &header, sizeof header)) ::_exit(0);
  std::vector<char> body(header.size);
  if (!receive(data, body.data(), body.size())) ::_exit(0);
  return header;
}

inline std::vector<std::byte> answer_to(const FrameHeader& call, int value) {
  drover::detail::ByteBuffer body;
  drover::Encoder(body).put(value);
  return frame({.type = FrameType::result, .slot = call.slot, .id = call.id}, body.view());
}

/// As the first frame of a worker whose on_start() has thrown.
inline std::vector<std::byte> start_failed(const std::string& type, const std::string& text) {
  drover::detail::ByteBuffer body;
  drover::Encoder encoder(body);
  encoder.put(type);
  encoder.put(text);
  return frame({.type = FrameType::start_failed, .id = drover::detail::hello_id()}, body.view());
}

inline void greet() {
  drover::detail::ByteBuffer body;
  drover::Encoder(body).put(drover::detail::Hello{"0", {"x"}});
  drover::detail::send_with_credentials(
      control, frame({.type = FrameType::hello, .id = drover::detail::hello_id()}, body.view()));
}

}  // namespace hostile
