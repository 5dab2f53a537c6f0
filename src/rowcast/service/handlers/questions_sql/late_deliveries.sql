-- order: 50
-- title: Late deliveries
-- description: How often and how badly deliveries missed their promised day, by region and carrier.
-- parameter: since date = 2025-01-01 (2021-01-01..2025-12-31) The first promised day to count.
-- parameter: until date = 2025-12-31 (2021-01-01..2025-12-31) The last promised day to count.
-- example: late_deliveries since=2025-11-01 until=2025-12-31

select region.name as region, delivery.carrier,
       count(*) as deliveries,
       count(*) filter (where delivered_on is null) as on_the_way,
       count(*) filter (where delivered_on > promised_on) as late,
       round(100.0 * count(*) filter (where delivered_on > promised_on) / nullif(count(delivered_on), 0), 1) as late_percent,
       round(avg(delivered_on - promised_on) filter (where delivered_on > promised_on), 1) as average_days_late,
       max(delivered_on - promised_on) filter (where delivered_on > promised_on) as most_days_late
from delivery
join orders using (order_id)
join customer using (customer_id)
join region using (region_id)
where delivery.promised_on between $1::date and $2::date
group by region.region_id, region.name, delivery.carrier
order by late_percent desc nulls last, region.name, delivery.carrier;
