create table public.coupons (
  code text primary key,
  percent integer not null check (percent between 1 and 100)
);
insert into public.coupons (code, percent) values ('SPRING', 10), ('SUMMER', 15), ('WELCOME', 20);
