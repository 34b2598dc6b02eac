#pragma once

#include <cstddef>
#include <memory>
#include <span>
#include <stdexcept>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include <drover/wire/body.hpp>

namespace drover { inline namespace v1 { namespace detail {

DROVER_INLINE std::span<const std::byte> view_of(const MovedBytes& moved) noexcept {
  if (const auto* text = std::get_if<std::string>(&moved)) return std::as_bytes(std::span(*text));
  if (const auto* bytes = std::get_if<std::vector<std::byte>>(&moved)) return *bytes;
  if (const auto* borrowed = std::get_if<std::span<const std::byte>>(&moved)) return *borrowed;
  const auto* buffer = std::get_if<ByteBuffer>(&moved);
  return buffer != nullptr ? buffer->view() : std::span<const std::byte>();
}

DROVER_INLINE void FrameBody::insert(ByteBuffer&& bytes) {
  end_piece();
  add(std::move(bytes));
}

DROVER_INLINE void FrameBody::insert(std::string&& bytes) {
  end_piece();
  add(std::move(bytes));
}

DROVER_INLINE void FrameBody::insert(std::vector<std::byte>&& bytes) {
  end_piece();
  add(std::move(bytes));
}

DROVER_INLINE void FrameBody::insert_borrowed(std::span<const std::byte> bytes) {
  end_piece();
  auto piece = std::make_shared<MovedBytes>(bytes);
  borrowed_.push_back(piece);
  add(std::move(piece), bytes.size());
}

DROVER_INLINE void FrameBody::return_borrowed() {
  constexpr long own_references = 2;
  while (!borrowed_.empty()) {
    MovedBytes& piece = *borrowed_.back();
    ByteBuffer copy;
    if (borrowed_.back().use_count() > own_references) copy.append(view_of(piece));
    piece = std::move(copy);
    borrowed_.pop_back();
  }
}

DROVER_INLINE void FrameBody::drop_borrowed() noexcept {
  for (; !borrowed_.empty(); borrowed_.pop_back()) *borrowed_.back() = ByteBuffer();
}

DROVER_INLINE void FrameBody::attach(UniqueFd descriptor) { list_for_one_more().add(std::move(descriptor)); }

DROVER_INLINE void FrameBody::attach(std::shared_ptr<const SharedMemory> memory, std::size_t size) {
  list_for_one_more().add_lent(std::move(memory));
  shared_size_ = size > SIZE_MAX - shared_size_ ? SIZE_MAX : shared_size_ + size;
}

DROVER_INLINE DescriptorList& FrameBody::list_for_one_more() {
  if (!takes_descriptors_) throw UnwantedDescriptor();
  if (!descriptors_) descriptors_ = std::make_shared<DescriptorList>(close_);
  if (descriptors_->size() == most_descriptors)
    throw std::invalid_argument("a message carries at most " + std::to_string(most_descriptors) + " descriptors");
  return *descriptors_;
}

DROVER_INLINE void FrameBody::end_piece() {
  if (!buffer_.empty()) add(std::move(buffer_));
}

DROVER_INLINE void FrameBody::add(MovedBytes&& piece) {
  const std::size_t size = view_of(piece).size();
  add(std::make_shared<const MovedBytes>(std::move(piece)), size);
}

DROVER_INLINE void FrameBody::add(SharedBytes piece, std::size_t size) {
  if (pieces_.size() == pieces_.capacity()) pieces_.reserve(2 * pieces_.size() + 2);
  pieces_.push_back(std::move(piece));
  size_of_pieces_ += size;
}

}}}  // namespace drover::v1::detail
