#pragma once

#include <ctime>
#include <http_parser.h>
#include <string>
#include <string_view>
#include <utility>

struct Response {
  unsigned status = HTTP_STATUS_OK;
  std::string type = "text/plain; charset=utf-8";
  std::string body{};
  std::string fields{};  ///< further ones, each with its line break
};

/// An answer of one line.
inline Response text_response(unsigned status, std::string text) {
  Response response;
  response.status = status;
  response.body = std::move(text) + '\n';
  return response;
}

inline Response refusal(unsigned status) {
  return text_response(status, ::http_status_str(static_cast<http_status>(status)));
}

inline std::string http_date() {
  const std::time_t now = std::time(nullptr);
  std::tm parts{};
  ::gmtime_r(&now, &parts);
  char text[64];
  return {text, std::strftime(text, sizeof text, "%a, %d %b %Y %H:%M:%S GMT", &parts)};
}

/// What comes before the body. Without a length the body ends with the connection.
inline std::string head_of(const Response& response, bool keep_alive, bool has_length = true) {
  std::string head = "HTTP/1.1 " + std::to_string(response.status) + ' ' +
                     ::http_status_str(static_cast<http_status>(response.status)) + "\r\nDate: " + http_date() +
                     "\r\nContent-Type: " + response.type + "\r\nX-Content-Type-Options: nosniff\r\n" + response.fields;
  if (has_length) head += "Content-Length: " + std::to_string(response.body.size()) + "\r\n";
  return head + (keep_alive ? "\r\n" : "Connection: close\r\n\r\n");
}
