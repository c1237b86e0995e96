# What /api/health answers: whether Redis can be reached too.
cache=$(printf 'PING\r\nQUIT\r\n' | nc -w 2 redis 6379 | head -n 1 | tr -d '\r')
if [ "$cache" = +PONG ]; then
  answer '200 OK' application/json "{\"status\":\"ok\",\"release\":\"$release\"}"
else
  answer '503 Service Unavailable' application/json \
    "{\"status\":\"error\",\"release\":\"$release\",\"error\":\"no cache\"}"
fi
