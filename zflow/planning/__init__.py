"""What a running pipeline's numbers mean: rates, bottlenecks. Pure: pictures in, values out."""
