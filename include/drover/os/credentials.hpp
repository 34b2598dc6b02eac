#pragma once

#include <drover/detail/platform.hpp>

#include <cerrno>
#include <cstddef>
#include <cstring>
#include <optional>
#include <span>
#include <sys/socket.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

#include <drover/os/detail/descriptor_rights.hpp>
#include <drover/os/fd.hpp>

/// The sender of bytes on a Unix socket. SO_PEERCRED names the creator of a socket pair at both of its ends; the
/// credentials that the kernel attaches to a message name its sender. See SCM_CREDENTIALS in unix(7).
namespace drover { inline namespace v1 { namespace detail {

/// Makes messages received on this end carry their sender. Call it before the other end can send.
inline void enable_credentials(int fd) {
  const int on = 1;
  if (::setsockopt(fd, SOL_SOCKET, SO_PASSCRED, &on, sizeof on) != 0)
    throw_errno("cannot enable SO_PASSCRED on the control socket");
}

/// Sends as many bytes as fit now and returns their number. Never raises SIGPIPE.
/// *Errors:* std::system_error, with EAGAIN if nothing fits now.
inline std::size_t send_with_credentials(int fd, std::span<const std::byte> bytes) {
  ucred own{};
  own.pid = ::getpid();
  own.uid = ::getuid();
  own.gid = ::getgid();
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof own)] = {};
  iovec part{const_cast<std::byte*>(bytes.data()), bytes.size()};
  msghdr message{};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  message.msg_control = control;
  message.msg_controllen = sizeof control;
  cmsghdr* header = CMSG_FIRSTHDR(&message);
  header->cmsg_level = SOL_SOCKET;
  header->cmsg_type = SCM_CREDENTIALS;
  header->cmsg_len = CMSG_LEN(sizeof own);
  std::memcpy(CMSG_DATA(header), &own, sizeof own);
  for (;;) {
    const ssize_t sent = ::sendmsg(fd, &message, MSG_NOSIGNAL);
    if (sent >= 0) return static_cast<std::size_t>(sent);
    if (errno != EINTR) throw_errno("cannot send with credentials");
  }
}

struct ReceivedFrom {
  std::size_t bytes{};          ///< 0: the other end is closed
  std::optional<pid_t> sender;  ///< as seen in our pid namespace; empty if credentials were not enabled in time
  bool descriptors{};           ///< descriptors were attached; another thread closes them
};

/// Receives the bytes that have arrived.
/// *Errors:* std::system_error, with EAGAIN if nothing has arrived.
inline ReceivedFrom receive_with_credentials(int fd, std::span<std::byte> buffer) {
  const ReceivedMessage received = receive_message(fd, buffer, MSG_DONTWAIT);
  if (received.bytes < 0) throw_errno("cannot receive with credentials");
  ReceivedFrom result{static_cast<std::size_t>(received.bytes), std::nullopt, received.descriptors};
  if (received.has_sender) result.sender = received.sender.pid;
  return result;
}

}}}  // namespace drover::v1::detail
