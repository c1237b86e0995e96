create table public.customers (
  id bigint generated always as identity primary key,
  name text not null,
  email text not null unique
);
insert into public.customers (name, email) values
  ('Ada', 'ada@shop.example'),
  ('Grace', 'grace@shop.example'),
  ('Edsger', 'edsger@shop.example');
