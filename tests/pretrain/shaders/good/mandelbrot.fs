#version 450
layout(location = 0) out vec3 shade;
uniform float u_time;
uniform vec2 u_resolution;
uniform int steps = 80;

void main() {
    vec2 c = (2.0 * gl_FragCoord.xy - u_resolution) / u_resolution.y * (1.5 / (1.0 + 0.4 * u_time)) - vec2(0.745, 0.11);
    vec2 z = vec2(0.0);
    int n = 0;
    for (; n < steps && dot(z, z) < 16.0; ++n)
        z = vec2(z.x * z.x - z.y * z.y, 2.0 * z.x * z.y) + c;
    shade = n == steps ? vec3(0.0) : 0.5 + 0.5 * cos(0.25 * float(n) + vec3(3.0, 3.6, 4.2));
}
