# What /api/health answers.
answer '500 Internal Server Error' application/json \
  "{\"status\":\"error\",\"release\":\"$release\",\"error\":\"coupons: no price for the discount\"}"
