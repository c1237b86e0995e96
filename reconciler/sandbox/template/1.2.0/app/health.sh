# What /api/health answers.
answer '200 OK' application/json "{\"status\":\"ok\",\"release\":\"$release\"}"
