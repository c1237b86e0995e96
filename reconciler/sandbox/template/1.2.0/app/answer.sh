#!/bin/sh
# Answers one request.
release=$(cat /srv/app/release)

answer() {
  printf 'HTTP/1.1 %s\r\nContent-Type: %s\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s' \
    "$1" "$2" "${#3}" "$3"
}

read -r _ path _
while read -r line && [ "${#line}" -gt 1 ]; do :; done

case $path in
  /) answer '200 OK' text/html "<h1>Practice shop $release</h1>" ;;
  /api/health) . /srv/app/health.sh ;;
  *) answer '404 Not Found' text/plain "no such page" ;;
esac
