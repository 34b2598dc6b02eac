#pragma once

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstddef>
#include <cstring>
#include <span>
#include <sys/socket.h>
#include <sys/uio.h>
#include <utility>

#include <drover/os/detail/descriptor_disposal.hpp>
#include <drover/os/detail/descriptor_list.hpp>
#include <drover/os/fd.hpp>

/// Descriptors that are attached to messages (SCM_RIGHTS in unix(7)). Closing one that an untrusted peer has attached
/// may block, see DescriptorDisposal. If the receiver does not take them, the kernel closes them on the receiver's
/// thread.
namespace drover { inline namespace v1 { namespace detail {

// The same number on every architecture for which Linux 6.16 added it; older C libraries do not define it.
#ifdef SO_PASSRIGHTS
inline constexpr int so_passrights = SO_PASSRIGHTS;
#else
inline constexpr int so_passrights = 83;
#endif

/// Makes the kernel refuse to send descriptors to this end (EPERM at the sender). False if it cannot: before Linux
/// 6.16.
inline bool refuse_descriptors(int socket) noexcept {
  const int off = 0;
  return ::setsockopt(socket, SOL_SOCKET, so_passrights, &off, sizeof off) == 0;
}

/// Makes the kernel pass them on again, where it can refuse them.
inline void permit_descriptors(int socket) noexcept {
  const int on = 1;
  ::setsockopt(socket, SOL_SOCKET, so_passrights, &on, sizeof on);
}

/// Room for the descriptors of one message that is received: as many as the kernel lets one carry (SCM_MAX_FD).
inline constexpr std::size_t most_attached = 253;

/// Attaches them to a message that is to be sent, in room for them.
inline void attach_descriptors(msghdr& message, std::span<char> room, std::span<const int> descriptors) noexcept {
  message.msg_control = room.data();
  message.msg_controllen = CMSG_SPACE(descriptors.size_bytes());
  cmsghdr header{};
  header.cmsg_level = SOL_SOCKET;
  header.cmsg_type = SCM_RIGHTS;
  header.cmsg_len = CMSG_LEN(descriptors.size_bytes());
  std::memcpy(room.data(), &header, sizeof header);
  std::memcpy(room.data() + CMSG_LEN(0), descriptors.data(), descriptors.size_bytes());
}

/// Puts descriptors that have arrived into the list. Without memory or a number for them, the rest is closed.
inline void keep_arrived(DescriptorList& list, std::span<const int> arrived) noexcept {
  const CloseElsewhere closing;
  try {
    list.reserve(list.size() + arrived.size());
    while (!arrived.empty()) {
      UniqueFd next(arrived.front());
      arrived = arrived.subspan(1);
      list.add(above_stdio(std::move(next)));
    }
  } catch (...) {
    list.set_incomplete();
    DescriptorDisposal::close(arrived);
  }
}

/// The result of recvmsg(2), with the credentials apart.
struct ReceivedMessage {
  ssize_t bytes = -1;        // as recvmsg(2) returns it; errno is set if it is negative
  bool descriptors = false;  // some were attached
  bool has_sender = false;
  ucred sender{};
};

/// Calls recvmsg(2), again after EINTR. Takes all attached descriptors, so that the kernel closes none on this thread:
/// they are put into the list, or DescriptorDisposal closes them.
inline ReceivedMessage receive_message(int socket, std::span<std::byte> room, int flags = 0,
                                       DescriptorList* list = nullptr) noexcept {
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof(ucred)) + CMSG_SPACE(most_attached * sizeof(int))];
  iovec part{room.data(), room.size()};
  msghdr message{};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  ReceivedMessage received;
  do {
    message.msg_control = control;
    message.msg_controllen = sizeof control;
    received.bytes = ::recvmsg(socket, &message, flags | MSG_CMSG_CLOEXEC);
  } while (received.bytes < 0 && errno == EINTR);
  if (received.bytes < 0) return received;
  if ((message.msg_flags & MSG_CTRUNC) != 0 && list != nullptr) {  // there is room: this process may have no more
    list->set_incomplete();
    received.descriptors = true;
  }
  if (message.msg_controllen == 0) return received;
  for (cmsghdr* header = CMSG_FIRSTHDR(&message); header != nullptr; header = CMSG_NXTHDR(&message, header)) {
    if (header->cmsg_level != SOL_SOCKET) continue;
    if (header->cmsg_type == SCM_CREDENTIALS) {
      std::memcpy(&received.sender, CMSG_DATA(header), sizeof received.sender);
      received.has_sender = true;
    } else if (header->cmsg_type == SCM_RIGHTS) {
      std::array<int, most_attached> descriptors{};
      const std::size_t count = std::min((header->cmsg_len - CMSG_LEN(0)) / sizeof(int), most_attached);
      std::memcpy(descriptors.data(), CMSG_DATA(header), count * sizeof(int));
      const std::span<const int> arrived(descriptors.data(), count);
      list != nullptr ? keep_arrived(*list, arrived) : DescriptorDisposal::close(arrived);
      received.descriptors = true;
    }
  }
  return received;
}

/// Closes a socket on which the kernel does not refuse descriptors: first takes those that wait in it.
inline void close_without_descriptors(UniqueFd socket) noexcept {
  if (!socket) return;
  const int saved = errno;
  ::shutdown(socket.get(), SHUT_RDWR);  // nothing more arrives
  std::array<std::byte, 4096> ignored;
  while (receive_message(socket.get(), ignored, MSG_DONTWAIT).bytes > 0) {
  }
  errno = saved;
}

}}}  // namespace drover::v1::detail
