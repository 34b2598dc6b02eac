#pragma once

#include <drover/detail/platform.hpp>

#include <array>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <sys/socket.h>
#include <sys/uio.h>

#include <drover/os/detail/descriptor_rights.hpp>

/// Messages between a parent and its fork server: a worker process that runs no calls, but makes workers of itself by
/// copying itself, see worker/detail/fork_server.hpp.
///
/// The parent sends one ForkRequest for each worker on the sequenced-packet socket that WorkerEnvironment::forks names.
/// Its descriptors are those of the new worker, and one end of a socket pair, the handshake. Its other end gets a
/// ForkReply: from the copy itself, so that the kernel names the process (SCM_CREDENTIALS in unix(7)), or from the
/// server that could not copy itself. The parent then moves the copy to a process group of its own and sends one byte,
/// and the copy becomes a worker. It exits if it gets none. Until then it belongs to the server's process group, so
/// that nothing is left of it if the parent, the server or the copy itself is killed in between.
namespace drover { inline namespace v1 { namespace detail {

/// The descriptors of a ForkRequest, in this order.
struct ForkDescriptor {
  enum : std::size_t {
    in,
    out,
    err,
    control,
    data,
    parent,       // pidfd of the parent
    folder,       // the working directory
    environment,  // a file with the variables, each followed by a NUL
    handshake,
    count
  };
};
using ForkDescriptors = std::array<int, ForkDescriptor::count>;

/// How many of them become descriptors 0, 1, 2, ... of the worker.
inline constexpr std::size_t placed_descriptors = ForkDescriptor::parent + 1;

struct ForkReply {
  std::int32_t error = 0;  // an errno; 0: the sender is the new worker
};

/// The type in the START_FAILED of a fork server that can never copy itself.
inline constexpr const char* cannot_fork = "drover: cannot fork";

/// Sends a ForkRequest. 0 or an errno. Never waits.
inline int send_fork_request(int socket, const ForkDescriptors& descriptors) noexcept {
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof descriptors)] = {};
  std::byte byte{};
  iovec part{&byte, sizeof byte};
  msghdr message{};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  attach_descriptors(message, control, descriptors);
  for (;;) {
    if (::sendmsg(socket, &message, MSG_NOSIGNAL | MSG_DONTWAIT) >= 0) return 0;
    if (errno != EINTR) return errno;
  }
}

/// Receives a ForkRequest; its descriptors are close-on-exec. Waits for it. False if there is none any more, or it is
/// malformed.
inline bool receive_fork_request(int socket, ForkDescriptors& descriptors) noexcept {
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof descriptors)];
  std::byte byte{};
  iovec part{&byte, sizeof byte};
  msghdr message{};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  ssize_t size = 0;
  do {
    message.msg_control = control;
    message.msg_controllen = sizeof control;
    size = ::recvmsg(socket, &message, MSG_CMSG_CLOEXEC);
  } while (size < 0 && errno == EINTR);
  const cmsghdr* const header = size > 0 ? CMSG_FIRSTHDR(&message) : nullptr;
  if (header == nullptr || header->cmsg_level != SOL_SOCKET || header->cmsg_type != SCM_RIGHTS ||
      header->cmsg_len != CMSG_LEN(sizeof descriptors))
    return false;
  std::memcpy(descriptors.data(), CMSG_DATA(header), sizeof descriptors);
  return true;
}

}}}  // namespace drover::v1::detail
