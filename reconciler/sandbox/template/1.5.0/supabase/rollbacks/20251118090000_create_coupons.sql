drop table public.coupons;
